package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	onairv1 "onair.example/go/stubs/onair/v1"
)

// SupersededError says that another process has our key. Stop; registering again would start a duel.
type SupersededError struct {
	// Holder is the address of that process.
	Holder string
}

func (e *SupersededError) Error() string { return "a newer registration has our key: " + e.Holder }

// Line is a channel that can be given up.
//
// A connection whose other end is gone without a word looks alive for a quarter of an hour, and every further call of
// its channel goes there. So whoever waited in vain for an answer takes a new one.
type Line struct {
	target string

	mu   sync.Mutex
	conn *grpc.ClientConn
}

// NewLine dials nothing yet.
func NewLine(target string) (*Line, error) {
	line := &Line{target: target}
	return line, line.Renew()
}

// Renew gives the channel up, with all of its calls, and takes a new one.
func (l *Line) Renew() error {
	conn, err := grpc.NewClient(l.target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
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

// Failed gives the error that cannot be helped by trying again, or nil.
func (l *Line) Failed(err error) error {
	if info := infoOf(err); info.GetReason() == "SUPERSEDED" {
		return &SupersededError{Holder: info.Metadata["holder"]}
	}
	switch status.Code(err) {
	case codes.InvalidArgument, codes.Unimplemented, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated:
		return err
	case codes.DeadlineExceeded:
		return l.Renew()
	}
	return nil
}

// infoOf is what the registry says of an error to programs, nil if it says nothing.
func infoOf(err error) *errdetails.ErrorInfo {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.Domain == "onair" {
			return info
		}
	}
	return nil
}

// codeOf is the canonical name of an error's code.
func codeOf(err error) string {
	return code.Code(status.Code(err)).String()
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
