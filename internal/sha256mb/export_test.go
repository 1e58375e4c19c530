package sha256mb

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// forceEnv restricts the tests and benchmarks of this package to kernels of one
// name, as in Ways. It shows what another machine would do.
const forceEnv = "CARLOAD_TEST_KERNEL"

func init() {
	name := os.Getenv(forceEnv)
	if name == "" {
		return
	}
	if name == stdName {
		planned.Store(newPlan(nil))
		return
	}
	cs := slices.DeleteFunc(candidates(), func(c candidate) bool { return c.lanes > 1 && c.name != name })
	if len(cs) < 2 {
		panic(fmt.Sprintf("%s: this machine has no %s", forceEnv, name))
	}
	std, took := measure(cs)
	planned.Store(choose(cs, std, took))
}

// EachKernel runs test with every plan for this machine in turn. The caller
// must not be a parallel test.
func EachKernel(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	WithKernels(func(name string) { t.Run(name, test) })
}

// WithKernels is EachKernel for callers without a *testing.T. The plans are:
// crypto/sha256 alone; the kernels of each name, with each number of lanes as
// the most that pay off; three lanes that are slower than two; and one lane
// that is slower than several of which one is in use.
func WithKernels(do func(name string)) {
	defer planned.Store(current())
	try := func(name string, p *plan) {
		planned.Store(p)
		do(name)
	}
	try("portable", newPlan(nil))
	all := candidates()
	var names []string
	for _, c := range all {
		if !slices.Contains(names, c.name) {
			names = append(names, c.name)
		}
	}
	for _, name := range names {
		var cs []candidate
		for _, c := range all {
			if c.name == name || c.lanes == 1 {
				cs = append(cs, c)
			}
		}
		try(name, choose(cs, 0, make([]time.Duration, len(cs))))
	}
	if len(all) == 0 {
		return
	}
	for most := 2; most <= 4; most++ {
		cs := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.lanes > most })
		try(fmt.Sprintf("%d lanes", most), choose(cs, 0, make([]time.Duration, len(cs))))
	}
	cs := slices.DeleteFunc(slices.Clone(all), func(c candidate) bool { return c.lanes == 3 })
	try("no 3 lanes", choose(cs, 0, make([]time.Duration, len(cs))))
	// The measurement may have gone wrong.
	took := make([]time.Duration, len(all))
	for i, c := range all {
		if took[i] = time.Second; c.lanes == 1 {
			took[i] = time.Hour
		}
	}
	try("one message in several lanes", choose(all, time.Hour, took))
}

// Lanes reports whether this machine has a kernel with lanes.
func Lanes() bool { return current().width > 0 }
