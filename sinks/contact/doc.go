// Package contact is what the sinks of tools share: their settings, which
// properties a tool is given of a user and in what form, and what is remembered
// of each user.
//
// The way of one change:
//
//	record, its state -> Mapping.Plan -> Step: all properties, those that differ from what was sent last
//	Step.Nothing      -> Record.Unchanged, no call
//	...               -> the tool's call -> Memory.Remember
//
// What was sent is remembered as a short hash of each property, so that a
// change that touches none of them costs no call, only what changed is sent, and
// what people edit in the tool stays until Clerk says something new.
package contact
