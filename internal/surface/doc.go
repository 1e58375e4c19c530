// Package surface tests what users of the module see: the API that packages
// export, the packages that a program takes in when it embeds them, and the
// names that the README, docs and comments mention. It has no code of its own.
package surface
