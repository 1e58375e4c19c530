// Package interop has no code, only tests. They compare what carload makes and
// serves with programs by other authors. The roots of files and trees must
// equal those of the JavaScript clients' own packers; those clients must read
// and join our shards; and the NFT.Storage client and boxo's pinning client
// talk to the service over HTTP.
//
// The JavaScript tests need Node and the packages of testdata/npm:
//
//	(cd testdata/npm && npm ci --ignore-scripts)
//	CARLOAD_NPM=$PWD/testdata/npm go test ./internal/interop
//
// Without CARLOAD_NPM they are skipped.
package interop
