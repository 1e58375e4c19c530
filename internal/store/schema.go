package store

import (
	"context"
	"crypto/rand"
	"fmt"
)

// schemaVersion is stored in SQLite's user_version.
const schemaVersion = 6

// Times are in microseconds since 1970. Multihashes (mh) are binary, and so are
// CIDs in BLOB columns.
const schema = `
CREATE TABLE settings (
	name  TEXT PRIMARY KEY,
	value BLOB NOT NULL
) WITHOUT ROWID;

CREATE TABLE users (
	id                INTEGER PRIMARY KEY,
	issuer            TEXT NOT NULL UNIQUE,
	name              TEXT NOT NULL UNIQUE,
	created           INTEGER NOT NULL,
	restricted        INTEGER NOT NULL DEFAULT 0,
	delete_restricted INTEGER NOT NULL DEFAULT 0,
	pinning           INTEGER NOT NULL DEFAULT 1
);

CREATE TABLE keys (
	id           INTEGER PRIMARY KEY,
	user_id      INTEGER NOT NULL REFERENCES users(id),
	name         TEXT NOT NULL,
	hash         BLOB NOT NULL UNIQUE,
	created      INTEGER NOT NULL,
	deleted      INTEGER,
	blocked      INTEGER NOT NULL DEFAULT 0,
	rate_limited INTEGER NOT NULL DEFAULT 0,
	quota        INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX keys_name ON keys(user_id, name) WHERE deleted IS NULL;

-- payload and payload_end delimit the CARv1 within the file.
CREATE TABLE shards (
	id          INTEGER PRIMARY KEY,
	cid         BLOB NOT NULL UNIQUE,
	size        INTEGER NOT NULL,
	payload     INTEGER NOT NULL,
	payload_end INTEGER NOT NULL,
	created     INTEGER NOT NULL
);

CREATE TABLE contents (
	cid     TEXT PRIMARY KEY,
	mh      BLOB NOT NULL,
	codec   INTEGER NOT NULL,
	size    INTEGER,
	created INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE uploads (
	id          INTEGER PRIMARY KEY,
	user_id     INTEGER NOT NULL REFERENCES users(id),
	key_id      INTEGER REFERENCES keys(id),
	source_cid  TEXT NOT NULL,
	content_cid TEXT NOT NULL REFERENCES contents(cid),
	type        TEXT NOT NULL,
	mime        TEXT NOT NULL,
	name        TEXT,
	files       TEXT NOT NULL,
	meta        TEXT,
	origins     TEXT,
	inserted    INTEGER NOT NULL,
	updated     INTEGER NOT NULL,
	deleted     INTEGER,
	UNIQUE (user_id, source_cid)
);
CREATE INDEX uploads_list ON uploads(user_id, inserted) WHERE deleted IS NULL;
CREATE INDEX uploads_content ON uploads(content_cid);

-- key_id is the key that sent the shard. The shard counts against its quota.
CREATE TABLE upload_shards (
	seq       INTEGER PRIMARY KEY,
	upload_id INTEGER NOT NULL REFERENCES uploads(id),
	shard_id  INTEGER NOT NULL REFERENCES shards(id),
	key_id    INTEGER REFERENCES keys(id),
	UNIQUE (upload_id, shard_id)
);
CREATE INDEX upload_shards_shard ON upload_shards(shard_id);
CREATE INDEX upload_shards_key ON upload_shards(key_id);

-- Fetches of pinned content that is not held. Whether content is pinned is not
-- recorded here: the nodes tell.
CREATE TABLE fetches (
	content_cid TEXT PRIMARY KEY REFERENCES contents(cid),
	state       TEXT NOT NULL CHECK (state IN ('queued', 'pinning', 'failed', 'done')),
	reason      TEXT NOT NULL DEFAULT '',
	attempts    INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE blocks (
	mh    BLOB NOT NULL,
	shard INTEGER NOT NULL,
	off   INTEGER NOT NULL,
	len   INTEGER NOT NULL,
	PRIMARY KEY (mh, shard)
) WITHOUT ROWID;

-- pending is the number of children that are not complete, or a state; see
-- node.go.
CREATE TABLE nodes (
	id      INTEGER PRIMARY KEY,
	mh      BLOB NOT NULL,
	codec   INTEGER NOT NULL,
	pending INTEGER NOT NULL,
	UNIQUE (mh, codec)
);
CREATE INDEX nodes_ready ON nodes(id) WHERE pending = 0;
CREATE INDEX nodes_telling ON nodes(id) WHERE pending = -4;
CREATE INDEX nodes_unread ON nodes(id) WHERE pending = -2;

-- In each row, the node parent links to a block (mh as codec) that is not
-- complete.
CREATE TABLE waiting (
	mh     BLOB NOT NULL,
	codec  INTEGER NOT NULL,
	parent INTEGER NOT NULL,
	PRIMARY KEY (mh, codec, parent)
) WITHOUT ROWID;
` + damageSchema + pieceSchema + stagingSchema + sweepSchema

// damageSchema was added in version 3.
const damageSchema = `
-- Damaged copies of blocks. They have no row in blocks. An empty mh stands for a
-- file that does not match its CID, whatever the state of its blocks.
CREATE TABLE damage (
	mh    BLOB NOT NULL,
	shard INTEGER NOT NULL,
	off   INTEGER NOT NULL,
	len   INTEGER NOT NULL,
	PRIMARY KEY (mh, shard)
) WITHOUT ROWID;
CREATE INDEX damage_shard ON damage(shard);

-- Nodes that link to a block, by the last eight bytes of its multihash. A row may
-- be out of date or match by chance, so its user must read the node.
CREATE TABLE parents (
	child  INTEGER NOT NULL,
	parent INTEGER NOT NULL,
	PRIMARY KEY (child, parent)
) WITHOUT ROWID;
`

// pieceSchema was added in version 4.
const pieceSchema = `
-- The Filecoin piece commitments of shards, as far as they have been computed.
CREATE TABLE pieces (
	cid        BLOB PRIMARY KEY,
	commitment BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX pieces_commitment ON pieces(commitment);
`

// stagingSchema was added in version 5.
const stagingSchema = `
-- Shards that may be only partly recorded, since adding and removing them takes
-- several transactions. What is recorded is true. They count against the key.
-- active is 1 while a shard is being indexed, 0 if that was abandoned, and -1
-- while it is being collected.
CREATE TABLE staging (
	shard  INTEGER PRIMARY KEY REFERENCES shards(id),
	key_id INTEGER REFERENCES keys(id),
	active INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS uploads_sender ON uploads(key_id);
`

// sweepSchema was added in version 6.
const sweepSchema = `
CREATE INDEX IF NOT EXISTS contents_mh ON contents(mh);
`

// upgrades has the statements that lead from each older version to the next.
var upgrades = []string{
	1: `-- Before, all shards of an upload counted against the key that began it.
ALTER TABLE upload_shards ADD COLUMN key_id INTEGER REFERENCES keys(id);
UPDATE upload_shards SET key_id = (SELECT u.key_id FROM uploads u WHERE u.id = upload_shards.upload_id);
CREATE INDEX upload_shards_key ON upload_shards(key_id);
DROP INDEX uploads_key;
`,
	2: damageSchema + `-- Existing nodes have no rows in parents. The setting is the last such node.
INSERT INTO settings SELECT 'parentless', max(id) FROM nodes HAVING max(id) IS NOT NULL;
`,
	3: pieceSchema,
	4: stagingSchema,
	5: sweepSchema,
}

// opening says how a store is opened.
type opening struct {
	discard bool // without payloads
	rebuild bool // the index is about to be rebuilt from the shards
}

// migrate makes the tables of a new database, or upgrades an old one and checks
// whether it may be used. It returns the salt of the store's tokens.
func (as opening) migrate(ctx context.Context, db *database, shards files) (salt []byte, err error) {
	err = db.update(ctx, func(tx *tx) error {
		var version int
		if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
			return fmt.Errorf("read version of index: %w", err)
		}
		if err := onlyTables(ctx, tx); err != nil {
			return err
		}
		switch version {
		case 0:
			// The database may exist without tables if its creation was
			// interrupted.
			if left, err := shards.any(); err != nil {
				return err
			} else if left && !as.rebuild {
				return ErrIndexMissing
			}
			if err := createIndex(ctx, tx); err != nil {
				return fmt.Errorf("create index: %w", err)
			}
		case schemaVersion:
		case 1, 2, 3, 4, 5:
			for _, step := range upgrades[version:] {
				if _, err := tx.ExecContext(ctx, step); err != nil {
					return fmt.Errorf("upgrade index to version %d: %w", schemaVersion, err)
				}
			}
			if err := setVersion(ctx, tx); err != nil {
				return err
			}
		default:
			return fmt.Errorf("the index has version %d, but this program needs version %d", version, schemaVersion)
		}
		if err := tx.QueryRowContext(ctx, `SELECT value FROM settings WHERE name = 'salt'`).Scan(&salt); err != nil {
			return fmt.Errorf("read salt: %w", err)
		}
		return as.admit(ctx, tx)
	})
	return salt, err
}

// onlyTables returns an error if the index has views, triggers or virtual
// tables: they would do what someone else wrote.
func onlyTables(ctx context.Context, q querier) error {
	return eachRow(ctx, q, `SELECT type, substr(name, 1, 64) FROM sqlite_schema WHERE type NOT IN ('table', 'index') OR sql LIKE 'CREATE VIRTUAL%'`, nil, func(scan scanRow) error {
		var kind, name string
		if err := scan(&kind, &name); err != nil {
			return fmt.Errorf("read schema of index: %w", err)
		}
		return fmt.Errorf("the index has the %s %q, which is not from carload: move the index away, and rebuild it from the shards", kind, name)
	})
}

func createIndex(ctx context.Context, tx execer) error {
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return err
	}
	salt := make([]byte, 32)
	if _, err := rand.Read(salt); err != nil {
		return fmt.Errorf("make salt: %w", err)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO settings VALUES ('salt', ?)`, salt); err != nil {
		return fmt.Errorf("keep salt: %w", err)
	}
	return setVersion(ctx, tx)
}

func setVersion(ctx context.Context, tx execer) error {
	_, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, schemaVersion))
	return err
}

// Settings that exist or don't. A store that discards payloads must not be
// mistaken for one that keeps them, and an index that is being rebuilt not for
// a complete one.
const (
	settingDiscard    = "discard"
	settingRebuilding = "rebuilding"
)

// admit compares the kind of the store with how it is being opened. A store
// without shards becomes what it is opened as.
func (as opening) admit(ctx context.Context, tx execer) error {
	var discards, rebuilding, empty bool
	const has = `EXISTS (SELECT 1 FROM settings WHERE name = ?)`
	err := tx.QueryRowContext(ctx, `SELECT `+has+`, `+has+`, NOT EXISTS (SELECT 1 FROM shards)`, settingDiscard, settingRebuilding).
		Scan(&discards, &rebuilding, &empty)
	if err != nil {
		return fmt.Errorf("read settings: %w", err)
	}
	switch {
	case discards && as.rebuild:
		return ErrDiscards
	case as.rebuild:
		return set(ctx, tx, settingRebuilding)
	case rebuilding:
		return ErrRebuilding
	case discards == as.discard:
		return nil
	case empty && as.discard:
		return set(ctx, tx, settingDiscard)
	case empty:
		return unset(ctx, tx, settingDiscard)
	case discards:
		return ErrDiscards
	}
	return ErrKeeps
}

func set(ctx context.Context, tx execer, name string) error {
	if _, err := tx.ExecContext(ctx, `INSERT OR REPLACE INTO settings VALUES (?, x'')`, name); err != nil {
		return fmt.Errorf("write setting %s: %w", name, err)
	}
	return nil
}

func unset(ctx context.Context, tx execer, name string) error {
	if _, err := tx.ExecContext(ctx, `DELETE FROM settings WHERE name = ?`, name); err != nil {
		return fmt.Errorf("remove setting %s: %w", name, err)
	}
	return nil
}
