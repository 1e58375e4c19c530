package service

import (
	"context"
	"time"

	"github.com/carload/carload/internal/store"
)

// intake accepts shards into the store and counts them.
type intake struct {
	st      *store.Store
	metrics *metrics
}

// accept is [store.Store.Accept], counted.
func (i intake) accept(ctx context.Context, in *store.Incoming, up *store.NewUpload) error {
	start := time.Now()
	if err := i.st.Accept(ctx, in, up); err != nil {
		return err
	}
	i.metrics.shards.Inc()
	i.metrics.bytes.Add(float64(in.Bytes))
	i.metrics.index.Observe(time.Since(start).Seconds())
	return nil
}
