package wire

import (
	"bytes"

	"google.golang.org/grpc/mem"
)

// more is what a FrameReader has to know of a batch that came in several pieces.
// The zero value is that of a batch in one.
type more struct {
	pieces mem.BufferSlice // behind the one that is being read
	length int             // theirs
	before int             // bytes in those before it

	scratch *scratch // for what doesn't lie in one piece
	give    bool     // large bodies that Decoder.DecodeGiven makes use of are given away
	given   bool     // the last one was
}

// Given says whether the body that Next or Whole has yielded last is given away:
// it lies in memory of its own, which nobody else knows and nobody uses again.
func (r *FrameReader) Given() bool { return r.more.given }

// Whole yields all that is left as one body.
func (r *FrameReader) Whole() []byte {
	r.more.given = false
	if r.pos == len(r.batch) && !r.nextPiece() {
		return nil
	}
	return r.body(r.left())
}

// left is how many bytes of the batch were not read yet.
func (r *FrameReader) left() int { return len(r.batch) - r.pos + r.more.length }

// nextPiece goes on to the next piece that isn't empty, and takes those that
// follow it in memory as parts of it. It answers false if there is none.
func (r *FrameReader) nextPiece() bool {
	r.more.before += len(r.batch)
	r.batch, r.pos = nil, 0
	for len(r.more.pieces) > 0 {
		next := r.more.pieces[0].ReadOnlyData()
		joined, ok := join(r.batch, next)
		if !ok {
			break
		}
		r.batch = joined
		r.more.length -= len(next)
		r.more.pieces = r.more.pieces[1:]
	}
	return len(r.batch) > 0
}

// join returns a with b behind it, if that is how they lie in one allocation, as
// those of a FramePool do.
func join(a, b []byte) ([]byte, bool) {
	switch n := len(a); {
	case n == 0:
		return b, true
	case len(b) == 0:
		return a, true
	case cap(a)-n >= len(b) && &a[:n+1][n] == &b[0]:
		return a[:n+len(b)], true
	}
	return nil, false
}

// across takes the message that the end of the piece cuts. If that is anything
// but a sound message, which is rare, it makes all that is left one piece and
// answers false: field is the one to tell what is right.
func (r *FrameReader) across() ([]byte, bool) {
	var header [1 + 10]byte
	read := r.peek(header[:])
	if header[0] == msgsTag {
		if n, at := uvarint(header[:read], 1); at != overrun && n <= uint64(r.left()-at) {
			r.skip(at)
			return r.body(int(n)), true
		}
	}
	rest := r.gather(r.left())
	r.more.before += r.pos
	r.batch, r.pos = rest, 0
	r.more.pieces, r.more.length = nil, 0
	return nil, false
}

// peek copies to dst as much of what comes as there is.
func (r *FrameReader) peek(dst []byte) int {
	n := copy(dst, r.batch[r.pos:])
	for _, piece := range r.more.pieces {
		if n == len(dst) {
			break
		}
		n += copy(dst[n:], piece.ReadOnlyData())
	}
	return n
}

// skip goes n bytes on, which must be there.
func (r *FrameReader) skip(n int) {
	for n > len(r.batch)-r.pos {
		n -= len(r.batch) - r.pos
		r.nextPiece()
	}
	r.pos += n
}

// body takes n bytes, which must be there, as a body.
func (r *FrameReader) body(n int) []byte {
	if r.pos == len(r.batch) {
		r.nextPiece()
	}
	if end := r.pos + n; end <= len(r.batch) {
		body := r.batch[r.pos:end:end]
		r.pos = end
		return r.inPlace(body)
	}
	if r.more.give && n > sharedLimit {
		var head [headSize]byte
		if worthGiving(head[:r.peek(head[:])], n) {
			r.more.given = true
			return r.copied(n)
		}
	}
	body := r.gather(n)
	r.skip(n)
	return body
}

// inPlace yields a body that lies in one piece.
func (r *FrameReader) inPlace(body []byte) []byte {
	if !r.more.give || len(body) <= sharedLimit || !worthGiving(body[:headSize], len(body)) {
		return body
	}
	r.more.given = true
	return clone(body)
}

// gather copies the next n bytes, which must be there, to one piece of scratch.
func (r *FrameReader) gather(n int) []byte {
	to := r.more.scratch.take(n, r.left())
	r.peek(to)
	return to
}

// copied takes the next n bytes, which must be there, as memory of its own.
func (r *FrameReader) copied(n int) []byte {
	var room [20][]byte // for 256 KiB by 16
	parts := room[:0]
	for n > 0 {
		part := r.batch[r.pos:min(r.pos+n, len(r.batch))]
		parts = append(parts, part)
		r.pos += len(part)
		if n -= len(part); n > 0 {
			r.nextPiece()
		}
	}
	return bytes.Join(parts, nil) // doesn't clear the memory first
}

// scratchChunk is how much scratch is taken from the pool at once.
const scratchChunk = 128 << 10

// scratch is pooled memory of which each byte is handed out once, until free.
type scratch struct {
	pool   mem.BufferPool
	chunks []*[]byte
	rest   []byte // of the newest chunk
}

// take hands out n bytes whose content is anything. The batch has left bytes,
// those n among them: no more than what may still be needed is allocated.
func (s *scratch) take(n, left int) []byte {
	if n > len(s.rest) {
		chunk := s.pool.Get(max(n, min(left, scratchChunk)))
		s.chunks = append(s.chunks, chunk)
		s.rest = *chunk
	}
	taken := s.rest[:n:n]
	s.rest = s.rest[n:]
	return taken
}

// free takes everything back. In tests it is overwritten first.
func (s *scratch) free() {
	for i, chunk := range s.chunks {
		Poison(*chunk)
		s.pool.Put(chunk)
		s.chunks[i] = nil
	}
	s.chunks, s.rest = s.chunks[:0], nil
}
