// Package e2e tests the whole length of clerk-connect, as processes: a
// simulated Clerk on one side, the topic and the databases on the other, and
// between them the binary that users run, killed, paused and restarted.
//
// It holds tests only. The simulator's users are the truth that everything is
// compared with.
package e2e
