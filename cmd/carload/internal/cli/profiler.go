package cli

import (
	"errors"
	"os"
	"runtime"
	"runtime/pprof"
)

// profiler writes the profiles for --cpuprofile and --memprofile.
type profiler struct {
	cpu *os.File
	mem string
}

func (p *profiler) start(cpu, mem string) (err error) {
	p.mem = mem
	if cpu == "" {
		return nil
	}
	if p.cpu, err = os.Create(cpu); err != nil {
		return err
	}
	return pprof.StartCPUProfile(p.cpu)
}

func (p *profiler) stop() (err error) {
	if p.cpu != nil {
		pprof.StopCPUProfile()
		err = p.cpu.Close()
	}
	if p.mem != "" {
		f, errCreate := os.Create(p.mem)
		if errCreate != nil {
			return errors.Join(err, errCreate)
		}
		runtime.GC()
		err = errors.Join(err, pprof.WriteHeapProfile(f), f.Close())
	}
	return err
}
