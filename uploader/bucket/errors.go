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

// ErrNoCredentials means that nothing was sent, for nobody is known to ask.
var ErrNoCredentials = errors.New("there are no credentials for the storage")

// Error is a refusal by the storage. It matches [uploader.ErrUnauthorized],
// [uploader.ErrQuotaExceeded], [uploader.ErrNotFound] and [uploader.ErrLimit]
// where that is what it means.
type Error struct {
	Status  int    // HTTP status
	Code    string // of S3; empty if there was none
	Message string

	after time.Duration
}

func (e *Error) Error() string {
	switch e.Code {
	case "NoSuchBucket":
		return "there is no such bucket"
	case "RequestTimeTooSkewed":
		return "the clock of this machine is wrong, or the storage's is: they differ by more than it takes"
	}
	if slices.Contains(strangers, e.Code) {
		return fmt.Sprintf("the storage does not take the credentials: %s", bulk.Quote(e.Code))
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

// strangers are the codes of credentials that are not taken. That of versitygw for
// a key that it does not know comes with 404.
var strangers = []string{"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure", "XAdminUserNotFound"}

var (
	elsewhere = []string{"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "MovedPermanently"}
	noRoom    = []string{"QuotaExceeded", "InsufficientStorage", "StorageFull", "TooManyBuckets"}
)

// Is reports whether the refusal means target.
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

// Retry tells whether the same request can succeed later.
func (e *Error) Retry() (again bool, after time.Duration) {
	switch e.Status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusConflict:
		return true, e.after
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusInsufficientStorage:
		return false, 0
	}
	// A body that was damaged on the way is worth another try.
	return e.Status >= 500 || slices.Contains([]string{"BadDigest", "RequestTimeout", "IncompleteBody", "XAmzContentChecksumMismatch"}, e.Code), e.after
}

// noTrailers tells whether a storage may have refused the form of a body with a
// trailer, which is not known to all.
func (e *Error) noTrailers() bool {
	switch e.Code {
	case "NotImplemented", "InvalidRequest", "InvalidArgument", "XAmzContentSHA256Mismatch", "SignatureDoesNotMatch", "MissingContentLength", "InvalidDigest", "MalformedTrailerError", "BadDigest":
		return true
	}
	return e.Status == http.StatusNotImplemented
}

// refusal makes the error of a reply that is not a success.
func (t *Target) refusal(resp *http.Response) error {
	p, _ := io.ReadAll(io.LimitReader(resp.Body, maxReplyBytes)) // the status says enough if this fails
	var said struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	_ = xml.Unmarshal(p, &said) // likewise
	return &Error{resp.StatusCode, said.Code, said.Message, bulk.RetryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// apiError makes the error of a call of the SDK; nil stays nil.
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
	case errors.As(err, &reply) && reply.HTTPStatusCode() != 0: // else there was none
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
