// Package rest is how sinks talk to tools over HTTP: one client, so that every
// tool's requests are paced, bounded in time and size, classified and kept out
// of error texts in the same way.
//
// What a status means, unless the tool says otherwise (Config.Classify) or the
// call expects it (Request.Accept):
//
//	2xx                        success
//	408, 425, 429, 5xx         retry, after what Retry-After or the vendor's own headers say
//	no connection, no answer   retry
//	2xx, 404, 405 with a page  retry: a proxy has answered in place of the tool
//	401, 403                   fatal: the key or a right is missing
//	3xx                        fatal: the base URL is wrong; no redirect is followed
//	413                        permanent, too large
//	409                        permanent, conflict
//	any other 4xx              permanent: the record is refused
//
// An error names what was done ([Request.Name]), the status and the vendor's
// code for the error. It never quotes a URL, which may hold an e-mail address,
// nor the vendor's message, nor what the transport says of a broken answer.
package rest
