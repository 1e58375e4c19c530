package service

import "net/http"

func (s *Service) uploadMultipart(*call) error {
	return failure(http.StatusNotImplemented, "HTTP_ERROR", "not yet")
}
