package cli

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// units are the unambiguous units of sizes.
var units = map[string]int64{
	"": 1, "b": 1,
	"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "pb": 1e15,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50,
}

// parseSize parses a number of bytes: 1000, 100MB (decimal) or 100MiB (binary).
// It refuses what could mean either (100M).
func parseSize(s string) (int64, error) {
	text := strings.TrimSpace(s)
	end := strings.LastIndexAny(text, "0123456789.") + 1
	number, unit := text[:end], strings.ToLower(strings.TrimSpace(text[end:]))
	scale, ok := units[unit]
	if !ok {
		if len(unit) == 1 && strings.Contains("kmgtp", unit) && number != "" {
			u := strings.ToUpper(unit)
			return 0, fmt.Errorf("size %q is ambiguous: write %s%sB (decimal) or %s%siB (binary)", s, number, u, number, u)
		}
		return 0, fmt.Errorf("size %q: use a number of bytes, or a unit such as MB (decimal) or MiB (binary)", s)
	}
	if number == "" || strings.Trim(number, "0123456789.") != "" || len(number) > 32 {
		return 0, fmt.Errorf("size %q: use a number of bytes, or one with a unit such as MB or MiB", s)
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, fmt.Errorf("size %q: %q is not a number", s, number)
	}
	r.Mul(r, new(big.Rat).SetInt64(scale))
	if scale == 1 && !r.IsInt() {
		return 0, fmt.Errorf("size %q: it must be a whole number of bytes", s)
	}
	n := new(big.Int).Quo(r.Num(), r.Denom())
	if !n.IsInt64() {
		return 0, fmt.Errorf("size %q: more than %d bytes", s, int64(math.MaxInt64))
	}
	return n.Int64(), nil
}

// size is a flag for a number of bytes.
type size int64

// Set implements pflag.Value.
func (v *size) Set(s string) error {
	n, err := parseSize(s)
	*v = size(n)
	return err
}

// String implements pflag.Value.
func (v *size) String() string {
	n := int64(*v)
	for _, u := range []string{"GiB", "MiB", "KiB", "GB", "MB", "kB"} {
		if scale := units[strings.ToLower(u)]; n != 0 && n%scale == 0 {
			return strconv.FormatInt(n/scale, 10) + u
		}
	}
	return strconv.FormatInt(n, 10)
}

// Type implements pflag.Value.
func (v *size) Type() string { return "size" }

// byteRate is a flag for bytes per second.
type byteRate struct{ size }

// Set implements pflag.Value.
func (v *byteRate) Set(s string) error {
	if s == "off" {
		v.size = 0
		return nil
	}
	return v.size.Set(strings.TrimSuffix(strings.TrimSpace(s), "/s"))
}

// Type implements pflag.Value.
func (v *byteRate) Type() string { return "size/s" }

// formatBytes formats a number of bytes for people.
func formatBytes(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + " B"
	}
	f, u := float64(n), 0
	for f >= 1<<10 && u < len("KMGTP") {
		f /= 1 << 10
		u++
	}
	decimals := 1
	if f >= 100 {
		decimals = 0
	}
	return strconv.FormatFloat(f, 'f', decimals, 64) + " " + "KMGTP"[u-1:u] + "iB"
}
