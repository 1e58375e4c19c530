package console

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// sample holds the service's counters at one time.
type sample struct {
	Time     int64   `json:"time"`     // milliseconds since 1970
	Received float64 `json:"received"` // bytes of shards
	Sent     float64 `json:"sent"`     // bytes of content, through the gateway
	Requests float64 `json:"requests"`
	Refused  float64 `json:"refused"` // answered with 4xx
	Failed   float64 `json:"failed"`  // answered with 5xx
	Stored   float64 `json:"stored"`  // bytes of shards in the store
	Shards   float64 `json:"shards"`
	Damaged  float64 `json:"damaged"` // shards
	Lost     float64 `json:"lost"`    // blocks
	Free     int64   `json:"free"`    // -1 if unknown
}

const (
	sampleEvery = 10 * time.Second
	maxSamples  = 360 // an hour
)

// figures holds the samples of the last hour.
type figures struct {
	metrics prometheus.Gatherer
	free    func() (int64, bool)

	mu      sync.Mutex
	samples []sample
}

func newFigures(metrics prometheus.Gatherer, free func() (int64, bool)) *figures {
	return &figures{metrics: metrics, free: free}
}

func (f *figures) run(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		f.add(f.take())
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (f *figures) add(s sample) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.samples) == maxSamples {
		f.samples = append(f.samples[:0], f.samples[1:]...)
	}
	f.samples = append(f.samples, s)
}

// take reads the counters. Missing ones stay 0.
func (f *figures) take() sample {
	s := sample{Time: time.Now().UnixMilli(), Free: -1}
	if f.free != nil {
		if n, ok := f.free(); ok {
			s.Free = n
		}
	}
	if f.metrics == nil {
		return s
	}
	// Gather returns the metrics that it could gather even if it returns an
	// error.
	families, _ := f.metrics.Gather()
	plain := map[string]*float64{
		"carload_service_shard_bytes_total": &s.Received, "carload_service_sent_bytes_total": &s.Sent,
		"carload_store_bytes": &s.Stored, "carload_store_shards": &s.Shards,
		"carload_store_damaged_shards": &s.Damaged, "carload_store_lost_blocks": &s.Lost,
	}
	for _, family := range families {
		if family.GetName() == "carload_service_requests_total" {
			for _, m := range family.GetMetric() {
				s.count(m)
			}
		} else if into := plain[family.GetName()]; into != nil {
			for _, m := range family.GetMetric() {
				*into += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return s
}

func (s *sample) count(m *dto.Metric) {
	n := m.GetCounter().GetValue()
	s.Requests += n
	for _, l := range m.GetLabel() {
		if status := l.GetValue(); l.GetName() == "status" && status != "" {
			switch status[0] {
			case '4':
				s.Refused += n
			case '5':
				s.Failed += n
			}
		}
	}
}

// showFigures answers with the samples and a new one.
func (c *Console) showFigures(w http.ResponseWriter, _ *http.Request, _ *session) {
	now := c.figures.take()
	c.figures.mu.Lock()
	samples := append(append(make([]sample, 0, maxSamples+1), c.figures.samples...), now)
	c.figures.mu.Unlock()
	reply(w, http.StatusOK, struct {
		Samples []sample `json:"samples"`
	}{samples})
}
