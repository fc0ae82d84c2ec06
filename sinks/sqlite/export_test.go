package sqlite

// ReadIndex is readIndex.
var ReadIndex = readIndex

// Between has f called once, after everything of a batch is written and before
// it is committed.
func (s *Sink) Between(f func()) {
	s.between = func() {
		s.between = func() {}
		f()
	}
}
