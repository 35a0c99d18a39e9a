package grpcstream

import (
	"crypto/tls"
	"testing"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/local"
)

// Credentials that don't encrypt have the buffers of plaintext.
func TestBufferedByCredentials(t *testing.T) {
	for name, test := range map[string]struct {
		transport credentials.TransportCredentials
		options   int // the credentials', and one for each buffer
	}{
		"none":     {nil, 2},
		"insecure": {insecure.NewCredentials(), 2},
		"local":    {local.NewCredentials(), 2},
		"TLS":      {credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13}), 3},
		"its own":  {own{insecure.NewCredentials()}, 1},
	} {
		if got := len(buffered(test.transport, new(bursts))); got != test.options {
			t.Errorf("%s: %d options, want %d", name, got, test.options)
		}
	}
}

type own struct {
	credentials.TransportCredentials
}

func (own) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{SecurityProtocol: "own"} }
