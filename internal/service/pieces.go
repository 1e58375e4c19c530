package service

import (
	"fmt"
	"net/http"

	"github.com/ipfs/go-cid"

	"github.com/carload/carload/car/piece"
)

// shardDetail is a shard as operators see it. Its Filecoin piece has the field
// names that deal-making tools use.
type shardDetail struct {
	CID        string `json:"cid"`
	PieceCID   string `json:"pieceCid"`
	PieceCIDV2 string `json:"pieceCidV2"`
	FileSize   int64  `json:"fileSize"`
	PieceSize  int64  `json:"pieceSize"`
}

// shard answers GET /internal/shards/{CAR CID}. The first request computes the
// piece.
func (s *Service) shard(c *call) error {
	shard, err := cid.Decode(c.param)
	if err != nil {
		return invalidCID(c.param)
	}
	p, err := s.st.Piece(c.r.Context(), shard)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, shardDetail{shard.String(), p.V1().String(), p.V2().String(), p.RawSize, p.PaddedSize()})
}

// piece answers GET and HEAD /piece/{piece CID} by FRC-0066: with the bytes of
// a shard whose piece is known, or a range of them.
func (s *Service) piece(c *call) error {
	id, err := cid.Decode(c.param)
	if err != nil {
		return invalidCID(c.param)
	}
	want, err := piece.Parse(id)
	if err != nil {
		return invalidCID(c.param)
	}
	f, err := s.st.OpenPiece(c.r.Context(), want)
	if err != nil {
		return err
	}
	defer f.Close()
	h := c.w.Header()
	h.Set("Content-Type", fmt.Sprintf("application/vnd.ipld.car; version=%d", f.Version))
	h.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.car"`, id))
	h.Set("Cache-Control", "public, max-age=29030400, immutable")
	h.Set("Etag", `"`+f.Piece.V2().String()+`"`)
	h.Set("X-Content-Type-Options", "nosniff")
	http.ServeContent(c.w, c.r, "", f.Created, f)
	return nil
}
