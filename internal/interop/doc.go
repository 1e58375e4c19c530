// Package interop holds no code, only tests: what carload makes and serves,
// held against programs that nobody here wrote. The roots of files and trees
// are compared with those of the JavaScript clients' own packers, shards are
// read and joined by them, and the NFT.Storage client and boxo's pinning client
// talk to the service over HTTP.
//
// The JavaScript ones need Node and the packages of testdata/npm:
//
//	(cd testdata/npm && npm ci --ignore-scripts)
//	CARLOAD_NPM=$PWD/testdata/npm go test ./internal/interop
//
// Without CARLOAD_NPM they are skipped.
package interop
