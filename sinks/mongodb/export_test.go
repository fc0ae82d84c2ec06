package mongodb

// Paths and Lists are for the tests' reader.
var (
	Paths = paths
	Lists = lists
)

// Number is number.
func Number(text string) any { return number(text) }

// Between has a function called between the guards and the users.
func (s *Sink) Between(f func()) { s.between = f }
