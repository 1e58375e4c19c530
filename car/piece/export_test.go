package piece

// ZeroPiece is the piece of zeros that fill a tree of this padded size.
func ZeroPiece(padded int64) Piece {
	raw := MaxRaw(padded)
	return Piece{Commitment: zeros[height(raw)], RawSize: raw}
}

// TileRaw is the number of bytes that a goroutine hashes at a time.
const TileRaw = tileRaw

// Skip pretends that n more bytes were written.
func Skip(h *Hasher, n int64) { h.size += n }
