// Package contract holds nothing but a test: that docs/CONTRACT.md, which says
// what raftmux promises and which tests hold it to that, says so truly.
package contract
