package bucket

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/carload/carload/internal/bulk"
	"github.com/carload/carload/uploader"
)

// ErrNoCredentials means that nothing was sent because there are no
// credentials.
var ErrNoCredentials = errors.New("there are no credentials for the storage")

// Error is an error reply of the storage. It matches
// [uploader.ErrUnauthorized], [uploader.ErrQuotaExceeded],
// [uploader.ErrNotFound] or [uploader.ErrLimit] if that is what it means.
type Error struct {
	Status  int    // HTTP status
	Code    string // S3 error code; empty if there was none
	Message string

	after time.Duration
}

func (e *Error) Error() string {
	switch e.Code {
	case "NoSuchBucket":
		return "there is no such bucket"
	case "RequestTimeTooSkewed":
		return "the clock of this machine or of the storage is wrong: they differ by more than the storage accepts"
	}
	if slices.Contains(strangers, e.Code) {
		return fmt.Sprintf("the storage does not accept the credentials: %s", bulk.Quote(e.Code))
	}
	if slices.Contains(elsewhere, e.Code) {
		return fmt.Sprintf("the bucket is in another region (%s): %s", bulk.Quote(e.Code), bulk.Quote(e.Message))
	}
	s := fmt.Sprintf("the storage answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Code != "" {
		s += " " + bulk.Quote(e.Code)
	}
	if e.Message != "" {
		s += ": " + bulk.Quote(e.Message)
	}
	return s
}

// strangers are the codes for rejected credentials. The last one is versitygw's
// for an unknown key; it comes with status 404.
var strangers = []string{"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure", "XAdminUserNotFound"}

var (
	elsewhere = []string{"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "MovedPermanently"}
	noRoom    = []string{"QuotaExceeded", "InsufficientStorage", "StorageFull", "TooManyBuckets"}
)

// Is reports whether e matches target.
func (e *Error) Is(target error) bool {
	switch target {
	case uploader.ErrQuotaExceeded:
		return slices.Contains(noRoom, e.Code)
	case uploader.ErrUnauthorized:
		return slices.Contains(strangers, e.Code) || (e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden) && e.Code != "RequestTimeTooSkewed" && !slices.Contains(noRoom, e.Code)
	case uploader.ErrNotFound:
		return e.Status == http.StatusNotFound && e.Code != "NoSuchBucket" && !slices.Contains(strangers, e.Code)
	case uploader.ErrLimit:
		return e.Code == "EntityTooLarge"
	case errThere:
		return e.Status == http.StatusPreconditionFailed
	}
	return false
}

// Retry reports whether the same request may succeed later.
func (e *Error) Retry() (again bool, after time.Duration) {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusConflict:
		return true, e.after
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false, 0
	}
	// The body may have been damaged on the way, so another try is worthwhile.
	return e.Status >= 500 || slices.Contains([]string{"BadDigest", "RequestTimeout", "IncompleteBody", "XAmzContentChecksumMismatch"}, e.Code), e.after
}

// noTrailers reports whether the storage may have refused the request because
// it does not support trailers.
func (e *Error) noTrailers() bool {
	switch e.Code {
	case "NotImplemented", "InvalidRequest", "InvalidArgument", "XAmzContentSHA256Mismatch", "SignatureDoesNotMatch", "MissingContentLength", "InvalidDigest", "MalformedTrailerError", "BadDigest":
		return true
	}
	return e.Status == http.StatusNotImplemented
}

// refusal makes an error from an unsuccessful reply.
func (t *Target) refusal(resp *http.Response) error {
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes)) // if this fails, the status is enough
	var said struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	_ = xml.Unmarshal(p, &said) // likewise
	return &Error{resp.StatusCode, said.Code, said.Message, bulk.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// apiError makes an error from one of the SDK; nil stays nil.
func (t *Target) apiError(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: %w", what, cause)
	}
	var reply *awshttp.ResponseError
	var api smithy.APIError
	switch {
	case errors.As(err, &reply) && reply.HTTPStatusCode() != 0: // otherwise there was no reply
		e := &Error{Status: reply.HTTPStatusCode()}
		if errors.As(err, &api) {
			e.Code, e.Message = api.ErrorCode(), api.ErrorMessage()
		}
		if r := reply.HTTPResponse(); r != nil {
			e.after = bulk.RetryAfter(r.Header.Get("Retry-After"), time.Now())
		}
		return fmt.Errorf("%s: %w", what, e)
	case t.api.Options().Credentials == nil:
		return bulk.Permanent(fmt.Errorf("%s: %w: %w", what, uploader.ErrUnauthorized, ErrNoCredentials))
	}
	if _, none := t.api.Options().Credentials.Retrieve(ctx); none != nil {
		return bulk.Permanent(fmt.Errorf("%s: %w: %w: %w", what, uploader.ErrUnauthorized, ErrNoCredentials, none))
	}
	var unsent *smithyhttp.RequestSendError
	if errors.As(err, &unsent) {
		err = unsent.Err
	}
	return t.client.Failed(ctx, what, err)
}
