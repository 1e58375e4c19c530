// Package sqlite sets up SQLite for carload: WAL mode, commits that survive a
// power failure, and one writer at a time.
package sqlite

import (
	"database/sql"
	"errors"
	"net/url"
	"strings"

	_ "modernc.org/sqlite" // the driver
)

// open opens the database at path. Params are further parameters for the
// driver. If a pragma is given twice, the last one wins.
func open(path string, params ...string) (*sql.DB, error) {
	u := url.URL{Scheme: "file", Path: path}
	params = append([]string{
		"_pragma=busy_timeout(30000)",
		"_pragma=journal_mode(WAL)",
		"_pragma=synchronous(FULL)",
		"_pragma=foreign_keys(1)",
		"_pragma=trusted_schema(0)", // the file may come from someone else
		"_pragma=journal_size_limit(67108864)",
		"_pragma=wal_autocheckpoint(4000)",
	}, params...)
	return sql.Open("sqlite", "file:"+u.EscapedPath()+"?"+strings.Join(params, "&"))
}

// OpenReader opens the database at path read-only, for as many concurrent
// readers as given.
func OpenReader(path string, readers int, params ...string) (*Reader, error) {
	db, err := open(path, append([]string{"_pragma=query_only(1)"}, params...)...)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(readers)
	db.SetMaxIdleConns(readers)
	return &Reader{DB: db, stmts: make(map[string]*sql.Stmt)}, nil
}

// Primary result codes, as [Code] returns them.
const (
	Busy        = 5
	ReadOnly    = 8
	IOError     = 10
	Corrupt     = 11
	Full        = 13
	CantOpen    = 14
	NotADB      = 26
	NotAnSQLite = 0 // for an error that does not come from SQLite
)

// ShortRead is the extended result code for a file that ends too early.
const ShortRead = IOError | 2<<8

// Code returns the extended result code of an error, or NotAnSQLite if it has
// none. The lowest byte is the primary code.
func Code(err error) int {
	var e interface{ Code() int }
	if errors.As(err, &e) {
		return e.Code()
	}
	return NotAnSQLite
}
