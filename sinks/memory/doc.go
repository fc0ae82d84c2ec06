// Package memory is the reference sink: it keeps users in the process's own
// memory. Tests of everything that needs a sink run on it, and it is the
// shortest answer to the question of what a correct sink does.
package memory
