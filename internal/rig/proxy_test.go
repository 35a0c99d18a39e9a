package rig

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// echo serves connections by saying back what they say.
func echo(t *testing.T) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
	return listener.Addr().String()
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// say writes s and reads as many bytes back, for at most d.
func say(t *testing.T, conn net.Conn, s string, d time.Duration) error {
	t.Helper()
	if _, err := conn.Write([]byte(s)); err != nil {
		return err
	}
	_ = conn.SetReadDeadline(time.Now().Add(d))
	got := make([]byte, len(s))
	if _, err := io.ReadFull(conn, got); err != nil {
		return err
	}
	if string(got) != s {
		t.Errorf("said %q, heard %q", s, got)
	}
	return nil
}

const soon = 30 * time.Millisecond

func TestProxyModes(t *testing.T) {
	for mode, test := range map[Mode]struct {
		answer        error // to what is said in that mode
		lostUp, after int64
		healed        error
	}{
		BlackHole:   {answer: os.ErrDeadlineExceeded, lostUp: 2, healed: syscall.ECONNRESET},
		SwallowUp:   {answer: os.ErrDeadlineExceeded, lostUp: 2, healed: syscall.ECONNRESET},
		SwallowDown: {answer: os.ErrDeadlineExceeded, healed: syscall.ECONNRESET},
		Stall:       {answer: os.ErrDeadlineExceeded},
		Refuse:      {},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			proxy := NewProxy(t, echo(t))
			conn := dial(t, proxy.Addr())
			if err := say(t, conn, "before", WaitTimeout); err != nil {
				t.Fatal(err)
			}
			proxy.SetMode(mode)
			patience := soon
			if test.answer == nil {
				patience = WaitTimeout
			}
			if err := say(t, conn, "in", patience); !errors.Is(err, test.answer) {
				t.Errorf("in the mode: %v", err)
			}
			Eventually(t, WaitTimeout, func() bool {
				s := proxy.Stats()
				return s.LostUp == test.lostUp && s.Live == 1 && (mode != SwallowDown || s.LostDown == 2)
			}, "lost")
			proxy.SetMode(Pass)
			if mode == Stall { // the answer is under way
				_ = conn.SetReadDeadline(time.Now().Add(WaitTimeout))
				if _, err := io.ReadFull(conn, make([]byte, 2)); err != nil {
					t.Errorf("after the stall: %v", err)
				}
			}
			err := say(t, conn, "after", WaitTimeout)
			if test.healed == nil && err != nil || test.healed != nil && err == nil {
				t.Errorf("after the mode: %v", err)
			}
		})
	}
}

func TestProxyTakesAndRefusesConnections(t *testing.T) {
	proxy := NewProxy(t, DeadAddress(t))
	proxy.SetMode(BlackHole)
	hole := dial(t, proxy.Addr())
	if err := say(t, hole, "anyone?", soon); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("black hole: %v", err)
	}
	proxy.SetMode(Refuse)
	if err := say(t, hole, "now?", WaitTimeout); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a healed black hole: %v", err)
	}
	answers := func() bool { // the dial itself may see the reset
		conn, err := net.Dial("tcp", proxy.Addr())
		if err != nil {
			return false
		}
		defer conn.Close()
		return say(t, conn, "hello", WaitTimeout) == nil
	}
	if answers() {
		t.Error("refused, and answered")
	}
	proxy.SetMode(Pass)
	if answers() {
		t.Error("nobody listens, and answered")
	}
	proxy.SetTarget(echo(t))
	last := dial(t, proxy.Addr())
	if err := say(t, last, "hello", WaitTimeout); err != nil {
		t.Error(err)
	}
	if s := proxy.Stats(); s.Accepted != 4 || s.Live != 1 {
		t.Errorf("%+v", s)
	}
	_ = last.Close()
	Eventually(t, WaitTimeout, func() bool { return proxy.Stats().Live == 0 }, "the client left")
}

func TestProxyCuts(t *testing.T) {
	proxy := NewProxy(t, echo(t))
	conn := dial(t, proxy.Addr())
	if err := say(t, conn, "hello", WaitTimeout); err != nil {
		t.Fatal(err)
	}
	proxy.CutAfter(3)
	if err := say(t, conn, "hello", WaitTimeout); err == nil {
		t.Error("not cut")
	}
	if s := proxy.Stats(); s.CarriedUp != 8 || s.Live != 0 {
		t.Errorf("%+v", s)
	}
	conn = dial(t, proxy.Addr())
	if err := say(t, conn, "hello", WaitTimeout); err != nil {
		t.Errorf("after the cut: %v", err)
	}
	proxy.Cut()
	if err := say(t, conn, "hello", WaitTimeout); err == nil {
		t.Error("not cut")
	}
}

func TestProxyShapes(t *testing.T) {
	proxy := NewProxy(t, echo(t))
	conn := dial(t, proxy.Addr())
	proxy.SetDelay(soon)
	start := time.Now()
	if err := say(t, conn, "hello", WaitTimeout); err != nil || time.Since(start) < 2*soon {
		t.Errorf("delayed by %v, %v", time.Since(start), err)
	}
	proxy.SetDelay(0)
	proxy.SetRate(100_000)
	start = time.Now()
	if err := say(t, conn, string(make([]byte, 10_000)), WaitTimeout); err != nil || time.Since(start) < 75*time.Millisecond {
		t.Errorf("10 kB at 100 kB/s in %v, %v", time.Since(start), err)
	}
	proxy.SetRate(0)
	if err := say(t, conn, string(make([]byte, 10_000)), WaitTimeout); err != nil {
		t.Error(err)
	}
}
