package service

import "net/http"

// serveMetrics answers GET /metrics for clients on this machine.
func (s *Service) serveMetrics(c *call) error {
	if !local(c.r) {
		return writePlain(c.w, http.StatusForbidden, "metrics are for this machine only; an operator can give them an address of their own: carload serve --metrics-addr ADDR\n")
	}
	s.metrics.handler.ServeHTTP(c.w, c.r)
	return nil
}

func (s *Service) version(c *call) error {
	return writeJSON(c.w, http.StatusOK, struct {
		Version string `json:"version"`
		Commit  string `json:"commit"`
		Branch  string `json:"branch"`
		Mode    string `json:"mode"`
	}{s.opts.Version, "", "", s.opts.Mode})
}

func (s *Service) healthz(c *call) error { return writeJSON(c.w, http.StatusOK, okReply{OK: true}) }

// readyz reports whether the store is working.
func (s *Service) readyz(c *call) error {
	if err := s.st.Ping(c.r.Context()); err != nil {
		return failure(http.StatusServiceUnavailable, "ERROR_NOT_READY", "The store does not answer.")
	}
	return writeJSON(c.w, http.StatusOK, okReply{OK: true})
}

// storeStatus answers GET /internal/status, for operators.
func (s *Service) storeStatus(c *call) error {
	status, err := s.st.Status(c.r.Context())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, status)
}
