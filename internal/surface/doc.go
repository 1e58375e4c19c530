// Package surface tests what the module shows to those who don't look inside:
// the API that packages export, what a program carries that embeds them, and the
// names that README, docs and comments mention. It has no code of its own.
package surface
