package fetch

import "math"

// BeQuick has the pool make long requests, however slow the machine is.
func (p *Pool) BeQuick() { p.quick = math.MaxInt64 }
