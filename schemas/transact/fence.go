package transact

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// leave tells the group that this instance will not come back soon, so that
// others take over at once: a static member does not leave by closing. memberID
// is this process's own, so that it cannot make a successor of its name leave.
func (o *owner) leave(ctx context.Context, memberID string) {
	client, err := kgo.NewClient(o.cfg.Client...)
	if err != nil {
		return
	}
	defer client.Close()
	request := kmsg.NewPtrLeaveGroupRequest()
	request.Group = o.cfg.Group
	member := kmsg.NewLeaveGroupRequestMember()
	member.MemberID, member.InstanceID = memberID, &o.cfg.TransactionalID
	request.Members = append(request.Members, member)
	leaving, cancel := o.ending(ctx)
	defer cancel()
	if _, err := request.RequestWith(leaving, client); err != nil {
		o.cfg.Logger.Warn("leave group, others take over after the session timeout", "group", o.cfg.Group, "err", err)
	}
}

// diagnose tells a fencing by another live process of the same name, which no
// retry can mend, from one by a ghost: a transaction that timed out while we
// were paused, or our own request to join that a slow network delivered after
// its repetition. A ghost sends no heartbeats, so the group forgets it, after
// the rebalance and the session timeout at the latest. What cannot be found
// out counts as a ghost.
func (o *owner) diagnose(ctx context.Context, err error) error {
	fenced := []error{kerr.FencedInstanceID, kerr.ProducerFenced, kerr.InvalidProducerEpoch, kerr.InvalidProducerIDMapping}
	if !slices.ContainsFunc(fenced, func(f error) bool { return errors.Is(err, f) }) {
		return err
	}
	memberID, _ := o.session.Client().GroupMetadata()
	o.session.Close() // it would take part in the group
	client, failed := kgo.NewClient(o.cfg.Client...)
	if failed != nil {
		return errors.Join(err, failed)
	}
	defer client.Close()
	admin := kadm.NewClient(client)
	waiting, cancel := context.WithTimeout(ctx, ghostSessions*o.cfg.SessionTimeout)
	defer cancel()
	live := false
	for {
		if other, failed := o.otherMember(waiting, admin, memberID); failed == nil && !other {
			return err
		} else if waiting.Err() == nil {
			live = failed == nil
		}
		select {
		case <-time.After(o.cfg.SessionTimeout / 10):
			continue
		case <-waiting.Done():
		}
		if live && ctx.Err() == nil {
			return fmt.Errorf("%w: %s in group %s", ErrDuplicateInstance, o.cfg.TransactionalID, o.cfg.Group)
		}
		return err
	}
}

// otherMember reports whether the group has a member of our name that is not
// we ourselves.
func (o *owner) otherMember(ctx context.Context, admin *kadm.Client, memberID string) (bool, error) {
	groups, err := admin.DescribeGroups(ctx, o.cfg.Group)
	if err != nil {
		return false, err
	}
	group := groups[o.cfg.Group]
	return slices.ContainsFunc(group.Members, func(m kadm.DescribedGroupMember) bool {
		return m.InstanceID != nil && *m.InstanceID == o.cfg.TransactionalID && m.MemberID != memberID
	}), group.Err
}
