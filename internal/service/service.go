package service

import (
	"log/slog"
	"net/http"
)

// Service is the HTTP API over a store. It is safe for concurrent use.
type Service struct {
	opts Options
	log  *slog.Logger
	intake
	limits  limiter
	shares  shares
	fetcher *fetcher
	handler http.Handler
}

// Handler serves the API, the gateway under /ipfs/, /metrics, /healthz and
// /readyz. [NewServer] makes a server for it.
func (s *Service) Handler() http.Handler { return s.handler }

// Close stops background work. Requests can be answered as long as the store is
// open.
func (s *Service) Close() error { return s.fetcher.stop() }
