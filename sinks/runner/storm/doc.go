// Package storm is the storm test of a tool's sink: 10,000 users go through a real
// runner, on a broker in the test's process, to an imitation of the tool that
// limits requests, fails, resets connections and refuses some users for good,
// while the runner is killed and started again. At the end every contact must be
// right, none there twice, every new user welcomed once, and nothing but the
// refused users in the dead letters.
package storm
