//go:build !race

// Package race says to tests whether the race detector watches: then everything
// takes several times as long, and what only measures memory can do less.
package race

// Enabled says that it does.
const Enabled = false
