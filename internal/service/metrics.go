package service

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/carload/carload/internal/store"
)

type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	shards   prometheus.Counter
	bytes    prometheus.Counter
	sent     prometheus.Counter
	index    prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry, st *store.Store) *metrics {
	m := &metrics{
		handler: promhttp.HandlerFor(reg, promhttp.HandlerOpts{}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "carload_service_requests_total", Help: "Requests answered.",
		}, []string{"method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "carload_service_request_seconds", Help: "Time from the head of a request to the end of the reply.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}, []string{"method"}),
		shards: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "carload_service_shards_total", Help: "Shards accepted.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "carload_service_shard_bytes_total", Help: "Bytes of accepted shards.",
		}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "carload_service_sent_bytes_total", Help: "Bytes of the bodies of replies.",
		}),
		index: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "carload_service_commit_seconds", Help: "Time to make a received shard part of the store.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.shards, m.bytes, m.sent, m.index, newStoreMetrics(st)} {
		// If the registry has these metrics already, another service in the
		// same process owns them. This one is then not counted.
		_ = reg.Register(c)
	}
	return m
}

func (m *metrics) request(method string, status int, sent int64, took time.Duration) {
	m.sent.Add(float64(sent))
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}

// storeMetrics exports a store's status.
type storeMetrics struct {
	st   *store.Store
	desc []*prometheus.Desc
}

func newStoreMetrics(st *store.Store) *storeMetrics {
	m := &storeMetrics{st: st}
	for _, d := range [][2]string{
		{"shards", "Shards in the store."},
		{"bytes", "Bytes of the shards in the store."},
		{"damaged_shards", "Shards that are known to be damaged, and have to be uploaded again."},
		{"lost_blocks", "Blocks of which no sound copy is known."},
		{"scrub_shards", "Shards that the scrub has checked since it last began."},
		{"scrub_bytes", "Bytes that the scrub has checked since it last began."},
		{"scrub_problems", "Problems that the scrub has found since it last began."},
		{"scrub_cycles", "How often the scrub has come to the end of the store."},
		{"scrub_began_timestamp_seconds", "When the scrub last began; 0 if never."},
	} {
		m.desc = append(m.desc, prometheus.NewDesc("carload_store_"+d[0], d[1], nil, nil))
	}
	return m
}

// Describe implements prometheus.Collector.
func (m *storeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range m.desc {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *storeMetrics) Collect(ch chan<- prometheus.Metric) {
	s, err := m.st.Status(context.Background())
	if err != nil {
		ch <- prometheus.NewInvalidMetric(m.desc[0], err)
		return
	}
	began := int64(0)
	if !s.Scrub.Began.IsZero() {
		began = s.Scrub.Began.Unix()
	}
	for i, v := range []int64{
		int64(s.Shards), s.Bytes, int64(s.DamagedShards), int64(s.LostBlocks),
		int64(s.Scrub.Shards), s.Scrub.Bytes, int64(s.Scrub.Problems), int64(s.Scrub.Cycles), began,
	} {
		ch <- prometheus.MustNewConstMetric(m.desc[i], prometheus.GaugeValue, float64(v))
	}
}
