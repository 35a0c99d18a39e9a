package rig

import (
	"testing"

	"go.uber.org/goleak"
)

// Main is a TestMain that fails a package whose tests leave goroutines behind.
func Main(m *testing.M, options ...goleak.Option) {
	goleak.VerifyTestMain(m, options...)
}
