package bucket

import "context"

// PutObject writes an object.
func (t *Target) PutObject(ctx context.Context, key string, data []byte) error {
	return t.putSmall(ctx, key, "application/octet-stream", data)
}

// RemoveObject removes an object.
func (t *Target) RemoveObject(ctx context.Context, key string) error { return t.remove(ctx, key) }
