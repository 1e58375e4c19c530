// Package service is a self-hosted server for the HTTP API of NFT.Storage. It
// takes CAR files and plain files from clients that speak that API, keeps them
// in a [store.Store], reports when a DAG is complete, and serves the blocks as
// a gateway.
//
// [New] makes a service over an open store, and [Service.Handler] serves it.
//
// Comments in this package call NFT.Storage's own server "the original".
package service
