// Package service is NFT.Storage's HTTP API as a server of one's own: it takes
// CAR files and plain files from clients that speak that API, keeps them in a
// [store.Store], says when a DAG is complete, and hands the blocks out again as
// a gateway.
//
// [New] makes a service over an open store and [Service.Handler] serves it.
package service
