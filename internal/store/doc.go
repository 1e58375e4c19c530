// Package store keeps CAR files by their content: it takes them in, says when
// all that a root reaches is held, and gives the blocks out again. It has the
// rows of those who use it as well: keys, uploads, pins. It knows no network
// and no words of an API; what it finds wrong it says by typed errors.
//
// [Open] opens the store in a directory. [Store.Receive] checks a shard and
// [Store.Accept] makes it part of the store.
//
// # What is on disk
//
// A shard is kept as it was received, in shards/ab/<CAR CID>.car. It is written
// under another name, synced, renamed, and the directory synced, before one
// SQLite transaction makes it part of the store. So a shard that was
// acknowledged is durable, a file that no row names was never acknowledged, and
// all that is said of blocks can be worked out again from the files.
//
// A small shard is not synced by itself: its bytes go to a segment in journal/
// besides, which is synced once for all that come at the same time. Its file is
// synced later. After a crash, Open writes those again that were lost.
//
// # When a DAG is complete
//
// Completeness is kept per inner node, not per upload: a node is complete when
// it is held and all its children are complete. A node knows how many of its
// children are not, and each incomplete child knows its parents. Each link is
// counted once, when its parent comes, and taken off once, when its child is
// complete, so a shard costs what the shard holds, whatever came before it and
// in whatever order. An upload is complete when its root is.
package store
