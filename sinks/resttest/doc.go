// Package resttest is what imitations of tools are made of, for tests: a
// [Server] that plays a tool over HTTP around a handler that knows the tool's
// rules, and holds both sides to what the vendor says:
//
//   - every request of a sink, and every answer of the imitation, is valid under
//     the vendor's own description ([Contract]), and no request has a member that
//     the description does not know;
//   - the imitation's answers have the shapes that were recorded from the real
//     service ([Recording]);
//   - the vendor's rate limit is enforced, on a virtual clock ([Clock]);
//   - failures strike by seeded chance ([Weather]): 429, 5xx and connections that
//     are reset, before the request was carried out or after it;
//   - requests are counted.
package resttest
