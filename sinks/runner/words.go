package runner

import (
	"context"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"clerkconnect/schemas"
	"clerkconnect/schemas/deadletters"
)

// words follows <prefix>.erasure-receipts for what people write there about
// this sink: waivers, and receipts taken back. No runner writes either, so they
// are told from our own receipts by what they are. It follows the sink's dead
// letters, too, for those that are to be tried again or are discarded. Nothing
// is decided here: a word makes the processor read its partition again. And it
// follows <prefix>.erasures, see [erased]. Safe for concurrent use.
type words struct {
	client *kgo.Client
	done   chan struct{}

	partitions int           // of the topic, and so of every topic that is split by user
	news       chan struct{} // has one if there is a word that nobody has looked at

	mu      sync.Mutex
	last    map[int32]int64 // offset of the last word about erasures, by partition
	letters map[int32]int64 // and of the last about dead letters
	erased  erased
}

// listen follows the topics from their ends as they are now, which is before
// any partition is restored. An error means that ctx has ended.
func (r *Runner) listen(ctx context.Context, topics ...string) (*words, error) {
	for attempt := 1; ; attempt++ {
		w, err := r.follow(ctx, topics)
		if err == nil {
			return w, nil
		}
		if attempt == 1 && ctx.Err() == nil {
			r.logger.Warn("follow what people write, will retry", "err", err)
		}
		if err := sleep(ctx, r.backoff(attempt)); err != nil {
			return nil, err
		}
	}
}

func (r *Runner) follow(ctx context.Context, topics []string) (*words, error) {
	client, err := kgo.NewClient(append(r.options.Client[:len(r.options.Client):len(r.options.Client)], kgo.FetchIsolationLevel(kgo.ReadCommitted()))...)
	if err != nil {
		return nil, err
	}
	ends, err := kadm.NewClient(client).ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		client.Close()
		return nil, err
	}
	from := map[string]map[int32]kgo.Offset{}
	partitions := 1
	ends.Each(func(o kadm.ListedOffset) {
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().At(o.Offset)
		partitions = max(partitions, len(from[o.Topic]))
	})
	client.AddConsumePartitions(from)
	w := &words{
		client: client, partitions: partitions, done: make(chan struct{}), news: make(chan struct{}, 1),
		last: map[int32]int64{}, letters: map[int32]int64{},
	}
	go w.run(r)
	return w, nil
}

func (w *words) run(r *Runner) {
	defer close(w.done)
	for {
		fetches := w.client.PollFetches(context.Background())
		if fetches.IsClientClosed() {
			return
		}
		fetches.EachError(func(topic string, partition int32, err error) {
			r.logger.Debug("follow what people write", "topic", topic, "partition", partition, "err", err)
		})
		fetches.EachRecord(func(k *kgo.Record) {
			switch {
			case k.Topic == r.options.Topics.Erasures():
				w.erased.read(r, k)
			case k.Topic == r.options.Topics.DeadLetters(r.cfg.Name):
				if deadletters.Followed(k) {
					w.note(w.letters, k)
				}
			case r.isWord(k):
				w.note(w.last, k)
			}
		})
	}
}

// isWord reports whether a person has written k about this sink.
func (r *Runner) isWord(k *kgo.Record) bool {
	_, sink, ok := schemas.SplitReceiptKey(string(k.Key))
	if !ok || sink != r.cfg.Name {
		return false
	}
	if k.Value == nil {
		return true
	}
	var receipt schemas.Receipt
	err := r.options.Codec.Decode(context.Background(), k.Value, &receipt)
	return err != nil && !undecodable(err) || receipt.WaivedAt != nil // what cannot be read just now may be one
}

func (w *words) note(last map[int32]int64, k *kgo.Record) {
	w.mu.Lock()
	last[k.Partition] = k.Offset
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// latest returns the offset of the last word about erasures in a partition, -1
// if none. w may be nil: nobody listens.
func (w *words) latest(partition int32) int64 {
	if w == nil {
		return -1
	}
	return w.lastIn(w.last, partition)
}

// lastLetter is latest for the dead letters.
func (w *words) lastLetter(partition int32) int64 {
	if w == nil {
		return -1
	}
	return w.lastIn(w.letters, partition)
}

func (w *words) lastIn(last map[int32]int64, partition int32) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if offset, ok := last[partition]; ok {
		return offset
	}
	return -1
}

// after reports whether there is a word about erasures at an offset, or behind
// it.
func (w *words) after(partition int32, offset int64) bool { return w.latest(partition) >= offset }

// lettersAfter is after for the dead letters.
func (w *words) lettersAfter(partition int32, offset int64) bool {
	return w.lastLetter(partition) >= offset
}

// told has a value when there is a word.
func (w *words) told() <-chan struct{} {
	if w == nil {
		return nil
	}
	return w.news
}

func (w *words) close() {
	w.client.Close()
	<-w.done
}
