package example;

import com.google.protobuf.util.Durations;
import io.grpc.StatusException;
import io.grpc.stub.BlockingClientCall;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.function.Consumer;
import onair.v1.Event;
import onair.v1.EventType;
import onair.v1.Instance;
import onair.v1.Selector;
import onair.v1.WatchRequest;
import onair.v1.WatchResponse;

/** Follows a set of instances over any number of streams as if it were one. */
final class Watcher {
  /** Of a stream that has not said yet how often it speaks. */
  private static final Duration FIRST_SILENCE = Duration.ofSeconds(30);

  /** What tells instances apart. */
  record Key(String namespace, String service, String id) {
    static Key of(Instance instance) {
      return new Key(instance.getNamespace(), instance.getService(), instance.getId());
    }
  }

  /** What one whole revision, or snapshot, did to the set. No events: a bookmark. */
  record Revision(long number, String token, List<Event> events, boolean isSnapshot) {}

  private final Line line;
  private final Say say;
  private final Map<Key, Instance> instances = new HashMap<>();

  /** The messages of a revision (or snapshot) that is not complete. */
  private final List<WatchResponse> held = new ArrayList<>();

  /** What the snapshot under way has not named yet; null while there is no snapshot. */
  private Set<Key> unnamed;

  private WatchRequest request;
  private Duration silence = FIRST_SILENCE;

  Watcher(Line line, Selector selector, Say say) {
    this.line = line;
    this.say = say;
    this.request = WatchRequest.newBuilder().addSelectors(selector).build();
  }

  /** Those of now. */
  Map<Key, Instance> instances() {
    return instances;
  }

  /** Tells {@code each} of every whole revision, after it was folded into {@link #instances}. */
  void run(Consumer<Revision> each) throws StatusException, Superseded, InterruptedException {
    Backoff backoff = new Backoff(Keeper.LONGEST_PAUSE);
    while (true) {
      // What was not complete comes again, whole.
      held.clear();
      if (request.getResumeToken().isEmpty()) {
        unnamed = new HashSet<>(instances.keySet());
      }
      say.line("watching", Map.of("token", request.getResumeToken()));
      BlockingClientCall<?, WatchResponse> stream = line.registry().watch(request);
      StatusException failure = null;
      try {
        WatchResponse message;
        while ((message = stream.read(silence.toMillis(), TimeUnit.MILLISECONDS)) != null) {
          backoff.reset();
          if (message.hasBookmarkInterval()) {
            // Two silent intervals, and a second for the way.
            silence = Duration.ofMillis(2 * Durations.toMillis(message.getBookmarkInterval())).plusSeconds(1);
          }
          Revision revision = take(message);
          if (revision != null) {
            each.accept(revision);
          }
        }
      } catch (TimeoutException silent) {
        say.line("silent", Map.of());
        stream.cancel("silent", silent);
        line.renew();
      } catch (StatusException error) {
        failure = error;
        say.line("ended", Map.of("code", error.getStatus().getCode().name(), "reason", Line.infoOf(error).getReason()));
        line.failed(error);
      }
      backoff.pause(failure);
    }
  }

  private Revision take(WatchResponse message) {
    if (message.hasReset()) {
      // Keep what is there; what the snapshot does not name goes when it is complete.
      say.line("reset", Map.of("reason", message.getReset().getReason().name()));
      held.clear();
      unnamed = new HashSet<>(instances.keySet());
      request = request.toBuilder().clearResumeToken().build();
    }
    held.add(message);
    if (message.getMore()) {
      return null;
    }
    List<Event> events = held.stream().flatMap(one -> one.getEventsList().stream()).toList();
    held.clear();
    for (Event event : events) {
      Key key = Key.of(event.getInstance());
      if (event.getType() == EventType.EVENT_TYPE_OFFLINE) {
        instances.remove(key);
      } else {
        instances.put(key, event.getInstance());
      }
      if (unnamed != null) {
        unnamed.remove(key);
      }
    }
    if (message.getSnapshotEnd() && unnamed != null) {
      instances.keySet().removeAll(unnamed);
      unnamed = null;
    }
    // Only now: with this token the server takes it that everything so far was acted on.
    if (!message.getResumeToken().isEmpty()) {
      request = request.toBuilder().setResumeToken(message.getResumeToken()).build();
    }
    return new Revision(message.getRevision(), message.getResumeToken(), events, message.getSnapshotEnd());
  }
}
