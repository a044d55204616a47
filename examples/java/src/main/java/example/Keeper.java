package example;

import com.google.protobuf.util.Durations;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.Map;
import java.util.UUID;
import java.util.function.Consumer;
import onair.v1.Instance;
import onair.v1.Status;
import onair.v1.Beat;
import onair.v1.BeatResult;
import onair.v1.DeregisterRequest;
import onair.v1.DrainRequest;
import onair.v1.DrainResponse;
import onair.v1.HeartbeatRequest;
import onair.v1.RegisterRequest;
import onair.v1.RegisterResponse;

/** Keeps one instance registered while {@link #run} runs. */
final class Keeper {
  private static final Duration CALL_TIMEOUT = Duration.ofSeconds(10);
  private static final Duration LEAVE_TIMEOUT = Duration.ofSeconds(3);
  private static final Duration SHORTEST_BEAT = Duration.ofMillis(500);
  static final Duration LONGEST_PAUSE = Duration.ofSeconds(2);

  private final Line line;
  private final Say say;

  /** Holds the last token and, once known, the id. */
  private volatile RegisterRequest request;

  private Duration interval;

  /** A registration is under way, or none is to be made any more. */
  private boolean isRegistering;

  private boolean isLeaving;

  Keeper(Line line, Instance instance, Duration ttl, Say say) {
    this.line = line;
    this.say = say;
    this.request = RegisterRequest.newBuilder().setInstance(instance).setTtl(Durations.fromMillis(ttl.toMillis())).build();
  }

  /** Registers and beats, and registers again whenever the lease is lost; throws when that makes no sense. */
  void run() throws StatusException, Superseded, InterruptedException {
    while (true) {
      register();
      beatUntilLost();
    }
  }

  private void register() throws StatusException, Superseded, InterruptedException {
    // One id for all attempts: however many of them arrive, one registration is made.
    update(registration -> registration.setRequestId(UUID.randomUUID().toString()));
    Backoff backoff = new Backoff(LONGEST_PAUSE);
    while (true) {
      try {
        RegisterResponse reply = answered();
        interval = Duration.ofMillis(Durations.toMillis(reply.getLease().getHeartbeatInterval()));
        say.line("registered", Map.of("instance", reply.getInstance(), "revision", reply.getRevision()));
        return;
      } catch (StatusException error) {
        line.failed(error);
        backoff.pause(error);
      }
    }
  }

  /** The answer of a registration, which is not interrupted: only who has the token can take the lease away. */
  private RegisterResponse answered() throws StatusException, InterruptedException {
    synchronized (this) {
      if (isLeaving) {
        throw new InterruptedException();
      }
      isRegistering = true;
    }
    try {
      RegisterResponse reply = line.registry(CALL_TIMEOUT).register(request);
      update(
          registration -> {
            registration.setLeaseToken(reply.getLease().getToken());
            // An id that was made up for us is ours from now on.
            registration.getInstanceBuilder().setId(reply.getInstance().getId());
          });
      return reply;
    } finally {
      synchronized (this) {
        isRegistering = false;
      }
    }
  }

  /** Ends {@link #run}, which runs in this thread; a registration under way has a while to be answered. */
  void end(Thread running) throws InterruptedException {
    synchronized (this) {
      isLeaving = true;
      if (!isRegistering) {
        running.interrupt();
      }
    }
    running.join(LEAVE_TIMEOUT.toMillis());
    running.interrupt();
    running.join();
  }

  private synchronized void update(Consumer<RegisterRequest.Builder> change) {
    RegisterRequest.Builder changed = request.toBuilder();
    change.accept(changed);
    request = changed.build();
  }

  /** Returns when the lease is gone and its key is free. */
  private void beatUntilLost() throws StatusException, Superseded, InterruptedException {
    Backoff backoff = new Backoff(interval);
    Duration timeout = interval.compareTo(SHORTEST_BEAT) < 0 ? SHORTEST_BEAT : interval;
    untilNextBeat();
    while (true) {
      try {
        // A beat that hangs is worth less than the next one.
        BeatResult result = beat(timeout);
        say.line("beat", Map.of("state", result.getState().name()));
        switch (result.getState()) {
          case BEAT_STATE_RENEWED -> {
            backoff.reset();
            untilNextBeat();
          }
          case BEAT_STATE_SUPERSEDED -> throw new Superseded(result.getHolder());
          case BEAT_STATE_EXPIRED, BEAT_STATE_UNKNOWN, BEAT_STATE_DENIED -> {
            return;
          }
          default -> backoff.pause(null); // also what this code does not know: try again soon
        }
      } catch (StatusException error) {
        line.failed(error);
        backoff.pause(error);
      }
    }
  }

  private void untilNextBeat() throws InterruptedException {
    Thread.sleep((long) Backoff.spread(interval.toMillis(), 0.9));
  }

  private BeatResult beat(Duration timeout) throws StatusException, InterruptedException {
    Beat beat = Beat.newBuilder().setLeaseToken(request.getLeaseToken()).build();
    return line.registry(timeout).heartbeat(HeartbeatRequest.newBuilder().addBeats(beat).build()).getResults(0);
  }

  /**
   * Takes the instance out of traffic, and returns when its clients know. The lease has to be kept meanwhile. Throws if
   * another process has our key; whatever else goes wrong is told, and nothing to stay for.
   */
  void drain(Duration wait) throws StatusException, Superseded, InterruptedException {
    // Should it be lost, what is registered anew takes no traffic either.
    update(registration -> registration.getInstanceBuilder().setStatus(Status.STATUS_DRAINING));
    if (request.getLeaseToken().isEmpty()) {
      return; // it never was registered
    }
    Backoff backoff = new Backoff(LONGEST_PAUSE);
    long until = System.nanoTime() + wait.toNanos();
    while (true) {
      Duration left = Duration.ofNanos(Math.max(until - System.nanoTime(), 0));
      DrainRequest.Builder drain = DrainRequest.newBuilder().setLeaseToken(request.getLeaseToken());
      drain.setWait(Durations.fromMillis(left.toMillis()));
      try {
        DrainResponse reply = line.registry(left.plus(LEAVE_TIMEOUT)).drain(drain.build());
        say.line("drained", Map.of("pending", reply.getPending(), "sent", reply.getSent(), "acked", reply.getAcked()));
        return;
      } catch (StatusException error) {
        if (left.isZero() || Line.isFinal(error)) {
          say.line("failed", Map.of("code", error.getStatus().getCode().name())); // nobody hears, so nothing to wait for
          return;
        }
        line.failed(error);
        // A beat that hangs takes the channel from this call as well: it may be made again.
        backoff.pause(error);
      }
    }
  }

  /** Takes the instance away. Nothing may register it any more. */
  void leave() throws InterruptedException {
    if (request.getLeaseToken().isEmpty()) {
      return;
    }
    try {
      DeregisterRequest leave = DeregisterRequest.newBuilder().setLeaseToken(request.getLeaseToken()).build();
      say.line("deregistered", Map.of("removed", line.registry(LEAVE_TIMEOUT).deregister(leave).getRemoved()));
    } catch (StatusException error) {
      say.line("failed", Map.of("code", error.getStatus().getCode().name())); // the lease ends by itself
    }
  }
}
