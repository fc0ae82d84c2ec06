package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/cmd/internal/ledger"
	"clerkconnect/connector"
	"clerkconnect/connector/clerk"
	"clerkconnect/connector/sequencer"
	"clerkconnect/connector/snapshot"
	"clerkconnect/schemas"
)

func newErasureRequest() *cobra.Command {
	var reason string
	var evenIfPresent bool
	var careful care
	cmd := &cobra.Command{
		Use:   "request ID",
		Short: "Ask for the erasure of a user whom Clerk no longer has",
		Long: `request starts an erasure by hand: for a user who was deleted at Clerk while
nobody listened, or who is left at a destination. A user whom Clerk still has is
deleted there, and then his erasure begins by itself.

It is final. Nothing that Clerk or anybody says of this user later has any effect,
since Clerk never uses an ID again. So Clerk is asked first, if CLERK_SECRET_KEY
is set; while it shows the user, request refuses, unless --even-if-present is
given: then the destinations lose somebody who can still sign in.

The command waits until the sequencer has taken the demand up; show says how far
the sinks are. An inferred erasure becomes final by it.`,
		Example: `  clerk-connect erasure request user_2abCdEfGhIjKlMnOpQrStUvWxYz --reason "ticket DSR-118"`,
		Args:    oneUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := ledger.CheckReason(reason); err != nil {
				return &usageError{err}
			}
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			return d.request(cmd.Context(), args[0], reason, evenIfPresent, careful)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`text` that the ledger keeps: a ticket, nothing that names a person")
	cmd.Flags().BoolVar(&evenIfPresent, "even-if-present", false, "also if Clerk still has the user")
	careful.flags(cmd, "the sequencer")
	return cmd
}

func (d *desk) request(ctx context.Context, id, reason string, evenIfPresent bool, careful care) error {
	standing, found, _, err := d.Find(ctx, id, time.Now())
	if err != nil {
		return err
	}
	if found && !standing.Inferred {
		d.say("%s is to be erased since %s UTC (%s); that is final, and needs no second word.", id, standing.RequestedAt.Format(minute), standing.How())
		d.say("clerk-connect erasure show %s says how far it is.", id)
		return nil
	}
	if err := d.checkGone(ctx, id, evenIfPresent); err != nil {
		return err
	}
	if found {
		d.say("The inferred erasure of %s becomes final.", id)
	}
	sinks, err := d.Expected(ctx)
	if err != nil {
		return err
	}
	d.say("%s will be erased, for ever: from the topics, and by %s.", id, sinkNames(sinks))
	if done, err := d.confirm(careful); done || err != nil {
		return err
	}
	event := ledger.Request(id, d.pins.InstanceID, reason, time.Now())
	err = d.tell(ctx, event, careful, func(k *kgo.Record) bool { return d.Standing(ctx, k, id, event.EventID) })
	if err != nil {
		return err
	}
	if careful.timeout > 0 {
		d.say("Done: the erasure stands in the ledger, due %s UTC.", time.UnixMilli(event.StatedAt).UTC().Add(d.Deadline).Format(minute))
	}
	d.say("clerk-connect erasure show %s says how far it is.", id)
	return nil
}

// checkGone asks Clerk whether it still has a user, if there is a key.
func (d *desk) checkGone(ctx context.Context, id string, evenIfPresent bool) error {
	if d.cfg.Snapshot.SecretKey == "" {
		d.say("Clerk was not asked whether it still has the user: CLERK_SECRET_KEY is not set.")
		return nil
	}
	answer, err := d.ask(ctx, id)
	switch {
	case err != nil:
		return err
	case !answer.Found:
		d.say("Clerk does not have %s any more.", id)
	case evenIfPresent:
		d.say("CLERK STILL HAS %s, who can sign in, and will not be synced any more.", id)
	default:
		return fmt.Errorf("%s is still at Clerk: delete the user there, and the erasure begins by itself. To erase him everywhere but at Clerk, for ever, give --even-if-present", id)
	}
	return nil
}

func (d *desk) ask(ctx context.Context, id string) (snapshot.Answer, error) {
	return snapshot.Ask(ctx, d.cfg.Snapshot, id, d.cfg.Log.Logger(d.out))
}

func sinkNames(sinks []ledger.Sink) string {
	var names []string
	for _, s := range sinks {
		name := s.Name
		if s.EraseAfter > 0 {
			name += " (after " + ledger.Span(s.EraseAfter) + ")"
		}
		names = append(names, name)
	}
	return cmp.Or(strings.Join(names, ", "), "no sink, since there is none")
}

// tell writes an event of a person and waits until the sequencer has answered
// it in <prefix>.erasures.
func (d *desk) tell(ctx context.Context, event *schemas.UserEvent, careful care, answers func(*kgo.Record) bool) error {
	follower, err := d.Follow(ctx, d.Topics.Erasures())
	if err != nil {
		return err
	}
	defer follower.Close()
	if err := d.writer.Write(ctx, connector.SourceRecord{Event: event}); err != nil {
		return err
	}
	if careful.timeout == 0 {
		d.say("Written to %s; the sequencer will take it up.", d.Topics.UserEvents())
		return nil
	}
	err = d.waiting("the sequencer", func() error {
		return follower.Until(ctx, careful.timeout, func(k *kgo.Record) (heard, done bool) { return false, answers(k) })
	})
	if errors.Is(err, ledger.ErrNoEffect) {
		return fmt.Errorf("it is written to %s, and will be done, but %s", d.Topics.UserEvents(),
			d.whyNothing(ctx, sequencer.Group(d.Topics), "the sequencer", "--roles sequencer", careful.timeout))
	}
	return err
}

// whyNothing says why nothing has come of a word in time.
func (d *desk) whyNothing(ctx context.Context, group, who, roles string, waited time.Duration) string {
	switch running, known := d.Running(ctx, group); {
	case known && !running:
		return fmt.Sprintf("no process runs %s (group %s is empty): start clerk-connect run %s", who, group, roles)
	case known:
		return fmt.Sprintf("%s has not answered within %s, though it runs: look at its log and at /readyz", who, waited)
	}
	return fmt.Sprintf("%s has not answered within %s: does a process with %s run?", who, waited, roles)
}

func newErasureRevoke() *cobra.Command {
	var careful care
	cmd := &cobra.Command{
		Use:   "revoke ID",
		Short: "Take an inferred erasure back, when Clerk shows the user again",
		Long: `revoke brings a user back whose deletion was only inferred, by a comparison of
all users with Clerk, and not said by Clerk or asked for by a person. Clerk is
asked by the user's ID and has to show the user; what it shows becomes the user's
state in the topic, and every sink writes the user anew. A final erasure cannot be
revoked by anybody.

It needs CLERK_SECRET_KEY, and the POLICY_* of the running processes: they decide
what of the user is synced.`,
		Example: `  clerk-connect erasure revoke user_2abCdEfGhIjKlMnOpQrStUvWxYz`,
		Args:    oneUser,
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := openDesk(cmd)
			if err != nil {
				return err
			}
			defer d.close()
			return d.revoke(cmd, args[0], careful)
		},
	}
	careful.flags(cmd, "the sequencer")
	return cmd
}

func (d *desk) revoke(cmd *cobra.Command, id string, careful care) error {
	ctx := cmd.Context()
	standing, err := d.find(cmd, id)
	if err != nil {
		return err
	}
	if !standing.Inferred {
		return fmt.Errorf("the erasure of %s is final (%s, %s UTC): it cannot be revoked, since Clerk never uses an ID again. A person who signs up again gets a new ID",
			id, standing.How(), standing.RequestedAt.Format(minute))
	}
	if d.cfg.Snapshot.SecretKey == "" {
		return errors.New("CLERK_SECRET_KEY is not set: Clerk has to show the user before his erasure can be revoked")
	}
	answer, err := d.ask(ctx, id)
	if err != nil {
		return err
	}
	if !answer.Found {
		return fmt.Errorf("%s is not at Clerk: the erasure is right, and stays", id)
	}
	policy, err := clerk.NewPolicy(d.cfg.Policy)
	if err != nil {
		return err
	}
	event, err := policy.Row(answer.User, clerk.ReadAt{
		Date: answer.Date, ReceivedAt: time.Now(), Origin: schemas.OriginRequest, Operation: schemas.EventRevoke, InstanceID: d.pins.InstanceID,
	})
	if err != nil {
		return fmt.Errorf("what Clerk shows of %s cannot be used: %w", id, err)
	}
	d.say("Clerk has %s: the inferred erasure of %s UTC is taken back, and every sink gets the user again.", id, standing.RequestedAt.Format(minute))
	if done, err := d.confirm(careful); done || err != nil {
		return err
	}
	if err := d.tell(ctx, event, careful, func(k *kgo.Record) bool { return ledger.Withdrawn(k, id) }); err != nil {
		return err
	}
	if careful.timeout > 0 {
		d.say("Done: the user is back in %s, and no sink owes the erasure any more.", d.Topics.Users())
	}
	return nil
}
