package service

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

type metrics struct {
	handler  http.Handler
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	shards   prometheus.Counter
	bytes    prometheus.Counter
	index    prometheus.Histogram
}

func newMetrics(reg *prometheus.Registry) *metrics {
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
		index: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "carload_service_commit_seconds", Help: "Time to make a received shard part of the store.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.shards, m.bytes, m.index} {
		// A registry that has them already is that of another service in the
		// same process; this one then goes uncounted.
		_ = reg.Register(c)
	}
	return m
}

func (m *metrics) request(method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodOptions:
	default:
		method = "other"
	}
	m.requests.WithLabelValues(method, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(method).Observe(took.Seconds())
}
