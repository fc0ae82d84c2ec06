package transact

import "time"

func (o *owner) startRestores() {
	o.mu.Lock()
	defer o.mu.Unlock()
	for number, p := range o.owned {
		if !p.started {
			p.started = true
			o.running.Add(1)
			go o.restore(number, p)
		}
	}
}

// restore reads a partition's memory until it succeeds or the assignment ends.
func (o *owner) restore(number int32, p *partition) {
	defer o.running.Done()
	for failures := 0; p.ctx.Err() == nil; failures++ {
		o.slots <- struct{}{}
		install, err := o.processor.Restore(p.ctx, number)
		<-o.slots
		if err == nil {
			if failures > 0 {
				o.cfg.Logger.Info("restored after failures", "topic", o.cfg.Topic, "partition", number, "failures", failures)
			}
			o.mu.Lock()
			o.restored = append(o.restored, func() { o.install(number, p, install) })
			o.wake()
			o.mu.Unlock()
			return
		}
		if p.ctx.Err() != nil {
			return
		}
		if failures == 0 { // a broker that is away would fill the log
			o.cfg.Logger.Warn("restore, will retry", "topic", o.cfg.Topic, "partition", number, "err", err)
		}
		select {
		case <-p.ctx.Done():
		case <-time.After(restoreRetry):
		}
	}
}

func (o *owner) installRestored() {
	o.mu.Lock()
	restored := o.restored
	o.restored = nil
	o.mu.Unlock()
	for _, install := range restored {
		install()
	}
}

// install makes a restored partition ready if it is still the same assignment.
func (o *owner) install(number int32, p *partition, install func()) {
	o.mu.Lock()
	current := o.owned[number] == p
	p.ready = current
	o.mu.Unlock()
	if !current {
		return
	}
	install()
	o.fetchFailed = false
	if !o.cfg.Hold {
		o.session.Client().ResumeFetchPartitions(map[string][]int32{o.cfg.Topic: {number}})
	}
	o.tellOwned()
}

// restoreAll forgets every partition and restores it again.
func (o *owner) restoreAll() {
	o.forgetDropped()
	o.mu.Lock()
	numbers := make([]int32, 0, len(o.owned))
	for number := range o.owned {
		o.add(number)
		numbers = append(numbers, number)
	}
	o.mu.Unlock()
	if len(numbers) > 0 {
		o.session.Client().PauseFetchPartitions(map[string][]int32{o.cfg.Topic: numbers})
	}
	for _, number := range numbers {
		o.processor.Forget(number)
	}
	o.tellOwned()
	o.startRestores()
}
