// A correct client of the registry, over stubs generated from proto/ and nothing else of ours.
//
// A Keeper keeps one instance registered; a Watcher follows a set of instances over any number of streams. Both are the
// state machines of docs/protocol.md.

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	onairv1 "onair.example/tour/stubs/onair/v1"
)

const (
	callTimeout  = 10 * time.Second
	leaveTimeout = 3 * time.Second
	longestPause = 2 * time.Second
	// A quiet watch says something this often; GetServerInfo tells the server's own.
	bookmarkInterval = 15 * time.Second
)

// Line is a channel that can be given up.
//
// A connection whose other end is gone without a word looks alive for a quarter of an hour, and every further call of
// its channel goes there. So whoever waited in vain for an answer takes a new one.
type Line struct {
	target string
	config string

	mu   sync.Mutex
	conn *grpc.ClientConn
}

// NewLine dials nothing yet.
func NewLine(target, serviceConfig string) (*Line, error) {
	line := &Line{target: target, config: serviceConfig}
	return line, line.Renew()
}

// Renew gives the channel up, with all of its calls, and takes a new one.
func (l *Line) Renew() error {
	conn, err := grpc.NewClient(l.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(l.config),
		// By default a channel may wait for two minutes before it dials again, longer than most leases live.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 3 * time.Second},
			MinConnectTimeout: 3 * time.Second,
		}))
	if err != nil {
		return err
	}
	l.mu.Lock()
	old := l.conn
	l.conn = conn
	l.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// Conn is the channel of now.
func (l *Line) Conn() *grpc.ClientConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn
}

// Registry makes calls over the channel of now.
func (l *Line) Registry() onairv1.RegistryClient {
	return onairv1.NewRegistryClient(l.Conn())
}

// reasonOf is the registry's reason for an error, empty if it gave none.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "onair" {
			return info.Reason
		}
	}
	return ""
}

// isFinal says that trying the same again cannot help: what is asked for is wrong, or forbidden, or unknown to this
// server.
func isFinal(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}

// spread is a random part of d, from the share from on to all of it.
func spread(d time.Duration, from float64) time.Duration {
	return time.Duration(float64(d) * (from + (1-from)*rand.Float64()))
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// pauses between attempts: doubling, spread, never shorter than what the server asks for.
type pauses struct {
	next, longest time.Duration
}

func (p *pauses) reset() { p.next = 0 }

func (p *pauses) pause(ctx context.Context, err error) error {
	p.next = min(max(2*p.next, 100*time.Millisecond), p.longest)
	wait := spread(p.next, 0.5)
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			wait = max(wait, spread(retry.RetryDelay.AsDuration()*3/2, 2.0/3))
		}
	}
	return sleep(ctx, wait)
}

// ErrSuperseded says that another process has our key. Stop; registering again would start a duel.
var ErrSuperseded = errors.New("a newer registration has our key")

// Keeper keeps one instance registered while Run runs.
type Keeper struct {
	line *Line
	// Holds the last token and, once known, the id.
	request  *onairv1.RegisterRequest
	interval time.Duration

	// Incarnations are those that it has had.
	Incarnations []uint64
	// Renewed has room for one: a beat was answered RENEWED.
	Renewed chan struct{}
}

// NewKeeper keeps instance, with the default TTL if ttl is 0.
func NewKeeper(line *Line, instance *onairv1.Instance, ttl time.Duration) *Keeper {
	request := &onairv1.RegisterRequest{Instance: instance, Ttl: durationpb.New(ttl)}
	return &Keeper{line: line, request: request, Renewed: make(chan struct{}, 1)}
}

// Run registers, beats, and registers again whenever the lease is lost.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		if err := k.register(ctx); err != nil {
			return err
		}
		if err := k.beatUntilLost(ctx); err != nil {
			return err
		}
	}
}

func (k *Keeper) register(ctx context.Context) error {
	// One id for all attempts: however many of them arrive, one registration is made.
	k.request.RequestId = uuid.NewString()
	pauses := pauses{longest: longestPause}
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		reply, err := k.line.Registry().Register(call, k.request)
		cancel()
		if err == nil {
			k.accept(reply)
			return nil
		}
		if err := k.failed(err); err != nil {
			return err
		}
		if err := pauses.pause(ctx, err); err != nil {
			return err
		}
	}
}

func (k *Keeper) accept(reply *onairv1.RegisterResponse) {
	k.request.LeaseToken = reply.Lease.Token
	// An id that was made up for us is ours from now on.
	k.request.Instance.Id = reply.Instance.Id
	k.interval = reply.Lease.HeartbeatInterval.AsDuration()
	if n := len(k.Incarnations); n == 0 || k.Incarnations[n-1] != reply.Instance.Incarnation {
		k.Incarnations = append(k.Incarnations, reply.Instance.Incarnation)
	}
}

// beatUntilLost returns nil when the lease is gone and its key is free.
func (k *Keeper) beatUntilLost(ctx context.Context) error {
	pauses := pauses{longest: k.interval}
	beat := &onairv1.HeartbeatRequest{Beats: []*onairv1.Beat{{LeaseToken: k.request.LeaseToken}}}
	wait := func() error { return sleep(ctx, spread(k.interval, 0.9)) }
	for err := wait(); err == nil; {
		// A beat that hangs is worth less than the next one.
		call, cancel := context.WithTimeout(ctx, max(k.interval, 500*time.Millisecond))
		reply, failure := k.line.Registry().Heartbeat(call, beat)
		cancel()
		if failure != nil {
			if err := k.failed(failure); err != nil {
				return err
			}
			err = pauses.pause(ctx, failure)
			continue
		}
		switch reply.Results[0].State {
		case onairv1.BeatState_BEAT_STATE_RENEWED:
			select {
			case k.Renewed <- struct{}{}:
			default:
			}
			pauses.reset()
			err = wait()
		case onairv1.BeatState_BEAT_STATE_SUPERSEDED:
			return ErrSuperseded
		case onairv1.BeatState_BEAT_STATE_EXPIRED, onairv1.BeatState_BEAT_STATE_UNKNOWN, onairv1.BeatState_BEAT_STATE_DENIED:
			return nil
		default: // also what this code does not know: try again soon
			err = pauses.pause(ctx, nil)
		}
	}
	return ctx.Err()
}

// failed gives the error that ends everything, or nil if it makes sense to try again.
func (k *Keeper) failed(err error) error {
	switch {
	case reasonOf(err) == "SUPERSEDED":
		return fmt.Errorf("%w: %w", ErrSuperseded, err)
	case isFinal(err):
		return err
	case status.Code(err) == codes.DeadlineExceeded:
		return k.line.Renew()
	}
	return nil
}

// Leave deregisters. A lease that is gone already is no error, so this is sent until it is answered.
func (k *Keeper) Leave(ctx context.Context) error {
	pauses := pauses{longest: longestPause}
	request := &onairv1.DeregisterRequest{LeaseToken: k.request.LeaseToken}
	for {
		call, cancel := context.WithTimeout(ctx, leaveTimeout)
		_, err := k.line.Registry().Deregister(call, request)
		cancel()
		if err == nil {
			return nil
		}
		if err := k.failed(err); err != nil {
			return err
		}
		if err := pauses.pause(ctx, err); err != nil {
			return err
		}
	}
}

// Key is what tells instances apart.
type Key struct{ Namespace, Service, ID string }

func keyOf(i *onairv1.Instance) Key { return Key{i.Namespace, i.Service, i.Id} }

// Watcher follows a set of instances over any number of streams as if it were one.
type Watcher struct {
	line    *Line
	request *onairv1.WatchRequest
	silence time.Duration
	// What the snapshot under way has not named yet; nil if none is under way.
	unnamed map[Key]bool
	// The messages of a revision (or snapshot) that is not complete.
	held []*onairv1.WatchResponse

	// Instances are those of now.
	Instances map[Key]*onairv1.Instance
	// Synced is closed once the first snapshot is complete.
	Synced chan struct{}
	// Redials counts the streams after the first.
	Redials int
	// Resets are the reasons for which it had to begin anew.
	Resets []onairv1.ResetReason
}

// NewWatcher follows what the selectors match.
func NewWatcher(line *Line, selectors []*onairv1.Selector, bookmarks time.Duration) *Watcher {
	return &Watcher{
		line:    line,
		request: &onairv1.WatchRequest{Selectors: selectors},
		// Two silent intervals, and a second for the way.
		silence:   2*bookmarks + time.Second,
		Instances: map[Key]*onairv1.Instance{},
		Synced:    make(chan struct{}),
	}
}

var errSilent = errors.New("the watch was silent for too long")

// Run tells each what every whole revision did to Instances.
func (w *Watcher) Run(ctx context.Context, each func([]*onairv1.Event)) error {
	pauses := pauses{longest: longestPause}
	for {
		err := w.follow(ctx, func(events []*onairv1.Event) {
			pauses.reset()
			if len(events) > 0 {
				each(events)
			}
		})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case isFinal(err):
			return err
		case errors.Is(err, errSilent):
			if err := w.line.Renew(); err != nil {
				return err
			}
		}
		w.Redials++
		if err := pauses.pause(ctx, err); err != nil {
			return err
		}
	}
}

// follow reads one stream to its end.
func (w *Watcher) follow(ctx context.Context, each func([]*onairv1.Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(w.silence, func() { cancel(errSilent) })
	defer silence.Stop()

	// What was not complete comes again, whole.
	w.held = nil
	if w.request.ResumeToken == "" {
		w.beginAnew()
	}
	stream, err := w.line.Registry().Watch(ctx, w.request)
	for err == nil {
		var message *onairv1.WatchResponse
		if message, err = stream.Recv(); err == nil {
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

// take gives what a message did, if it completes a revision.
func (w *Watcher) take(message *onairv1.WatchResponse) (seen []*onairv1.Event) {
	if message.Reset_ != nil {
		w.Resets = append(w.Resets, message.Reset_.Reason)
		w.held = nil
		w.beginAnew()
		w.request.ResumeToken = ""
	}
	w.held = append(w.held, message)
	if message.More {
		return nil
	}
	for _, held := range w.held {
		for _, event := range held.Events {
			if event = w.fold(event); event != nil {
				seen = append(seen, event)
			}
		}
	}
	w.held = nil
	if message.SnapshotEnd {
		for key := range w.unnamed {
			gone := &onairv1.Event{Type: onairv1.EventType_EVENT_TYPE_OFFLINE, Instance: w.Instances[key]}
			delete(w.Instances, key)
			seen = append(seen, gone)
		}
		w.unnamed = nil
		select {
		case <-w.Synced:
		default:
			close(w.Synced)
		}
	}
	// Only now: with this token the server takes it that everything so far was acted on.
	if message.ResumeToken != "" {
		w.request.ResumeToken = message.ResumeToken
	}
	return seen
}

// fold gives the event as it is to us, nil if it is none.
func (w *Watcher) fold(event *onairv1.Event) *onairv1.Event {
	key := keyOf(event.Instance)
	if event.Type == onairv1.EventType_EVENT_TYPE_OFFLINE {
		delete(w.Instances, key)
		return event
	}
	known := w.Instances[key]
	w.Instances[key] = event.Instance
	if w.unnamed != nil {
		delete(w.unnamed, key)
		if known != nil {
			// A snapshot after a reset: what we had already is news only if it changed.
			if known.Revision == event.Instance.Revision {
				return nil
			}
			return &onairv1.Event{Type: onairv1.EventType_EVENT_TYPE_UPDATED, Instance: event.Instance}
		}
	}
	return event
}
