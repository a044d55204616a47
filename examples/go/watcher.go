package main

import (
	"context"
	"errors"
	"time"

	onairv1 "onair.example/go/stubs/onair/v1"
)

// Key is what tells instances apart.
type Key struct{ Namespace, Service, ID string }

func keyOf(i *onairv1.Instance) Key { return Key{i.Namespace, i.Service, i.Id} }

// Revision is what one whole revision, or snapshot, did to the set. No events: a bookmark.
type Revision struct {
	Number   uint64
	Token    string
	Events   []*onairv1.Event
	Snapshot bool
}

// Watcher follows a set of instances over any number of streams as if it were one.
type Watcher struct {
	line    *Line
	say     Say
	request *onairv1.WatchRequest
	silence time.Duration
	// What the snapshot under way has not named yet; nil if none is under way.
	unnamed map[Key]bool
	// The messages of a revision (or snapshot) that is not complete.
	held []*onairv1.WatchResponse

	// Instances are those of now.
	Instances map[Key]*onairv1.Instance
}

// NewWatcher follows what the selectors match.
func NewWatcher(line *Line, selectors []*onairv1.Selector, say Say) *Watcher {
	return &Watcher{
		line:      line,
		say:       say,
		request:   &onairv1.WatchRequest{Selectors: selectors},
		silence:   firstSilence,
		Instances: map[Key]*onairv1.Instance{},
	}
}

var errSilent = errors.New("the watch was silent for too long")

// Run tells each of every whole revision, after it was folded into Instances.
func (w *Watcher) Run(ctx context.Context, each func(*Revision)) error {
	pauses := pauses{longest: longestPause}
	for {
		err := w.follow(ctx, func(revision *Revision) {
			pauses.reset()
			if revision != nil {
				each(revision)
			}
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errSilent) {
			w.say("silent", nil)
			err = w.line.Renew()
		} else {
			w.say("ended", facts{"code": codeOf(err), "reason": infoOf(err).GetReason()})
		}
		if err := w.line.Failed(err); err != nil {
			return err
		}
		if err := pauses.pause(ctx, err); err != nil {
			return err
		}
	}
}

// follow reads one stream to its end.
func (w *Watcher) follow(ctx context.Context, each func(*Revision)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(w.silence, func() { cancel(errSilent) })
	defer silence.Stop()

	// What was not complete comes again, whole.
	w.held = nil
	if w.request.ResumeToken == "" {
		w.beginAnew()
	}
	w.say("watching", facts{"token": w.request.ResumeToken})
	stream, err := w.line.Registry().Watch(ctx, w.request)
	for err == nil {
		var message *onairv1.WatchResponse
		if message, err = stream.Recv(); err == nil {
			if interval := message.BookmarkInterval; interval != nil {
				// Two silent intervals, and a second for the way.
				w.silence = 2*interval.AsDuration() + time.Second
			}
			silence.Reset(w.silence)
			each(w.take(message))
		}
	}
	if context.Cause(ctx) == errSilent {
		return errSilent
	}
	return err
}

// beginAnew keeps what is there; what the snapshot does not name goes when it is complete.
func (w *Watcher) beginAnew() {
	w.unnamed = map[Key]bool{}
	for key := range w.Instances {
		w.unnamed[key] = true
	}
}

// take gives the revision that a message completes, if it does.
func (w *Watcher) take(message *onairv1.WatchResponse) *Revision {
	if message.Reset_ != nil {
		w.say("reset", facts{"reason": message.Reset_.Reason.String()})
		w.held = nil
		w.beginAnew()
		w.request.ResumeToken = ""
	}
	w.held = append(w.held, message)
	if message.More {
		return nil
	}
	revision := &Revision{Number: message.Revision, Token: message.ResumeToken, Snapshot: message.SnapshotEnd}
	for _, held := range w.held {
		for _, event := range held.Events {
			w.fold(event)
			revision.Events = append(revision.Events, event)
		}
	}
	w.held = nil
	if message.SnapshotEnd {
		for key := range w.unnamed {
			delete(w.Instances, key)
		}
		w.unnamed = nil
	}
	// Only now: with this token the server takes it that everything so far was acted on.
	if message.ResumeToken != "" {
		w.request.ResumeToken = message.ResumeToken
	}
	return revision
}

func (w *Watcher) fold(event *onairv1.Event) {
	key := keyOf(event.Instance)
	if event.Type == onairv1.EventType_EVENT_TYPE_OFFLINE {
		delete(w.Instances, key)
	} else {
		w.Instances[key] = event.Instance
	}
	delete(w.unnamed, key)
}
