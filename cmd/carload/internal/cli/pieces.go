package cli

import (
	"cmp"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/spf13/cobra"

	"github.com/carload/carload/car/piece"
	"github.com/carload/carload/internal/durable"
	"github.com/carload/carload/internal/store"
	"github.com/carload/carload/uploader"
	"github.com/carload/carload/uploader/dirtarget"
)

// pieceLine is a result: both piece CIDs, both sizes, and the name of the file
// or shard.
func pieceLine(p piece.Piece, of string) string {
	return fmt.Sprintf("%s\t%s\t%d\t%d\t%s", p.V2(), p.V1(), p.RawSize, p.PaddedSize(), of)
}

func (a *app) pieceCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "piece FILE…",
		Short: "Compute the Filecoin piece CIDs of whole files",
		Long: `Compute the Filecoin piece CIDs of files, such as shards from "carload pack".
The whole file is the piece, whatever it contains. If you give a directory,
carload takes all .car files in it; - is standard input.

Each line has the piece CID of version 2 (bafkzcib…, which contains the sizes),
of version 1 (baga6ea4seaq…), the size of the file, the padded size of the
piece, and the path.`,
		Example: `  carload piece shards/
  carload pack movie.mkv -o shards --max-shard-bytes 66584576 --piece-cids`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var paths []string
			for _, arg := range args {
				switch info, err := os.Stat(arg); {
				case arg == "":
					return sourceError{errEmptyPath}
				case arg != "-" && err == nil && info.IsDir():
					cars, err := carsIn(arg)
					if err != nil {
						return err
					}
					paths = append(paths, cars...)
				default:
					paths = append(paths, arg) // errors from opening it come later
				}
			}
			if len(paths) == 0 {
				return usageError{errors.New("give at least one file, or a directory of archives"), helpFor(cmd)}
			}
			return a.pieces(paths)
		},
	}
}

func (a *app) piecesOfStoreCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "pieces",
		Short: "Print the Filecoin piece CIDs of all shards in the store",
		Long: `Print the Filecoin piece CIDs of all undamaged shards: lines as from "carload
piece", with the CAR CID instead of the path. The store computes them once and
keeps them. Then "carload serve" serves the shards to storage providers as
/piece/PIECE_CID.`,
		Example: `  carload service pieces --piece-manifest pieces.csv`,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withStore(cmd.Context(), dir, func(st *store.Store) error {
				shards, err := st.Shards(cmd.Context())
				if err != nil {
					return err
				}
				for _, c := range shards {
					p, err := st.Piece(cmd.Context(), c)
					if err != nil {
						return err
					}
					a.con.event(pieceEvent{header("piece"), c.String(), *fieldsOf(&p)})
					a.con.result(pieceLine(p, c.String()))
				}
				return nil
			})
		},
	}
	addStore(cmd, &dir)
	return cmd
}

type pieceEvent struct {
	eventHeader
	Path string `json:"path"`
	pieceFields
}

// pieceFields describes a piece, with the names that deal-making tools use.
type pieceFields struct {
	PieceCID   string `json:"pieceCid"`
	PieceCIDV2 string `json:"pieceCidV2"`
	FileSize   int64  `json:"fileSize"`
	PieceSize  int64  `json:"pieceSize"`
}

func fieldsOf(p *piece.Piece) *pieceFields {
	if p == nil {
		return nil
	}
	return &pieceFields{p.V1().String(), p.V2().String(), p.RawSize, p.PaddedSize()}
}

// pieces prints the piece CIDs of files. If a file can't be read, it continues
// with the others.
func (a *app) pieces(paths []string) error {
	var pool piece.Pool
	var read, total atomic.Int64
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			total.Add(info.Size())
		}
	}
	defer a.showProgress(phases{first: "hashing"}, func() uploader.Progress {
		return uploader.Progress{BytesHashed: read.Load(), BytesToHash: total.Load()}
	})()
	worst := exitOK
	for _, path := range paths {
		p, err := a.pieceOf(&pool, path, &read)
		if cause := context.Cause(a.life.soft); cause != nil {
			return cause
		}
		if err != nil {
			err = sourceError{fmt.Errorf("piece of %q: %w", path, err)}
			worst = worse(worst, exitCode(err))
			a.con.errorLine(err, exitCode(err))
			continue
		}
		a.con.event(pieceEvent{header("piece"), path, *fieldsOf(&p)})
		a.con.result(pieceLine(p, quotePath(path)))
	}
	if worst != exitOK {
		return silent{worst}
	}
	return nil
}

func (a *app) pieceOf(pool *piece.Pool, path string, read *atomic.Int64) (piece.Piece, error) {
	if path == "-" {
		return pool.Read(countedReader{a.life.soft, a.stdio.In, read})
	}
	info, err := os.Stat(path) // before opening: opening a FIFO would wait
	if err != nil {
		return piece.Piece{}, err
	}
	if !info.Mode().IsRegular() {
		return piece.Piece{}, errors.New("it is not a regular file: pass its content on standard input (-)")
	}
	f, err := os.Open(path)
	if err != nil {
		return piece.Piece{}, err
	}
	defer f.Close()
	// A file that grows while it is read might never end.
	p, err := pool.Read(countedReader{a.life.soft, io.LimitReader(f, info.Size()+1), read})
	switch {
	case err != nil:
	case p.RawSize > info.Size():
		err = fmt.Errorf("%w: it has more than the %d bytes that it had", uploader.ErrSourceChanged, info.Size())
	case p.RawSize < info.Size():
		err = fmt.Errorf("%w: it had %d bytes, but carload read %d", uploader.ErrSourceChanged, info.Size(), p.RawSize)
	}
	return p, err
}

// countedReader counts what is read, until its context is done.
type countedReader struct {
	ctx  context.Context //nolint:containedctx // of the one read of a file
	r    io.Reader
	read *atomic.Int64
}

func (c countedReader) Read(p []byte) (int, error) {
	if err := context.Cause(c.ctx); err != nil {
		return 0, err
	}
	n, err := c.r.Read(p)
	c.read.Add(int64(n))
	return n, err
}

// manifest is a file that says which piece each shard is. It appears complete
// at the end, or not at all.
type manifest struct {
	path string
	form manifestWriter
	file *os.File // nil after it was written or discarded
	rows []manifestRow
}

type manifestRow struct {
	RootCID  string `json:"rootCid"`
	ShardCID string `json:"shardCid"`
	pieceFields
	FilePath string `json:"filePath,omitempty"` // path of the shard in its directory, if it is a file
	index    int
}

type manifestWriter func(io.Writer, []manifestRow) error

// manifestForm returns the format for the name of the file.
func manifestForm(path string) (manifestWriter, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".csv":
		return writeCSV, nil
	case ".jsonl", ".ndjson":
		return writeJSONLines, nil
	}
	return nil, usagef("--piece-manifest %q: the name must end in .csv or .jsonl", path)
}

// newManifest makes sure that the file can be written before the work begins.
func newManifest(path string) (*manifest, error) {
	form, err := manifestForm(path)
	if err != nil {
		return nil, err
	}
	f, to, err := newFile(path, ".carload-*.tmp")
	if err != nil {
		return nil, fmt.Errorf("--piece-manifest: %w", err)
	}
	return &manifest{path: to, form: form, file: f}, nil
}

// write writes the rows, if there are any.
func (m *manifest) write() error {
	if m == nil || m.file == nil || len(m.rows) == 0 {
		return nil
	}
	// Inputs end in any order.
	slices.SortFunc(m.rows, func(a, b manifestRow) int {
		return cmp.Or(strings.Compare(a.RootCID, b.RootCID), cmp.Compare(a.index, b.index))
	})
	// The same DAG may have been an input twice, or have gone to several
	// targets.
	m.rows = slices.CompactFunc(m.rows, func(a, b manifestRow) bool { return a.RootCID == b.RootCID && a.ShardCID == b.ShardCID })
	f := m.file
	err := errors.Join(f.Chmod(0o644), m.form(f, m.rows), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return fmt.Errorf("--piece-manifest: %w", errors.Join(err, os.Remove(f.Name())))
	}
	m.file = nil
	return durable.SyncDir(filepath.Dir(m.path))
}

// discard removes an unwritten manifest.
func (m *manifest) discard() error {
	if m.file == nil {
		return nil
	}
	_ = m.file.Close() // it is empty
	err := os.Remove(m.file.Name())
	m.file = nil
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func writeCSV(out io.Writer, rows []manifestRow) error {
	w := csv.NewWriter(out)
	_ = w.Write([]string{"rootCid", "shardCid", "pieceCid", "pieceCidV2", "fileSize", "pieceSize", "filePath"}) // w keeps errors
	for _, r := range rows {
		_ = w.Write([]string{
			r.RootCID, r.ShardCID, r.PieceCID, r.PieceCIDV2,
			strconv.FormatInt(r.FileSize, 10), strconv.FormatInt(r.PieceSize, 10), r.FilePath,
		})
	}
	w.Flush()
	return w.Error()
}

func writeJSONLines(out io.Writer, rows []manifestRow) error {
	w := json.NewEncoder(out)
	for _, r := range rows {
		if err := w.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// addPieces prints the pieces of an input's shards, and adds them to the
// manifest.
func (r *results) addPieces(res uploader.Result) {
	for i, s := range res.Pieces {
		if !r.rootOnly && !r.hidden && !r.other {
			r.app.con.result(pieceLine(s.Piece, s.CID.String()))
		}
		if r.manifest == nil {
			continue
		}
		row := manifestRow{RootCID: res.Root.String(), ShardCID: s.CID.String(), pieceFields: *fieldsOf(&s.Piece), index: i}
		if r.files {
			row.FilePath = dirtarget.FileName(res.Root, i, res.Shards)
		}
		r.manifest.rows = append(r.manifest.rows, row)
	}
}
