package fetch

import "math"

// BeQuick makes the pool use long requests, however slow the machine is.
func (p *Pool) BeQuick() { p.quick = math.MaxInt64 }
