package example;

import com.google.gson.JsonPrimitive;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import io.grpc.StatusException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Callable;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import onair.v1.Event;
import onair.v1.Instance;
import onair.v1.LookupRequest;
import onair.v1.LookupResponse;
import onair.v1.Selector;

/**
 * A program that is on the air: registered while it runs, and following a service.
 *
 * <p>What happens it says as lines of JSON. Ends with 0 when it was asked to (SIGTERM, SIGINT), with 3 when another
 * process took its key.
 */
public final class Main {
  private static final int SUPERSEDED = 3;
  private static final Duration ASK_TIMEOUT = Duration.ofSeconds(5);

  private static final Map<String, String> DEFAULTS =
      Map.of(
          "--registry", "127.0.0.1:6624", // host:port
          "--service", "", // what to register
          "--id", "", // which copy of it; made up by the registry if left out
          "--port", "8080", // where it would listen
          "--ttl", "10", // seconds that it lives without a beat
          "--watch", "", // the service to follow; its own if left out
          "--drain", "5"); // seconds that clients have to hear that it leaves

  private final Say say = new Say();
  private final String watched;
  private final Line line;

  /** The last revision that was seen, if nobody took it yet. */
  private final BlockingQueue<Long> changed = new LinkedBlockingQueue<>();

  private Main(String registry, String watched) {
    this.watched = watched;
    this.line = new Line(registry);
  }

  public static void main(String[] arguments) throws InterruptedException {
    Map<String, String> given = new HashMap<>(DEFAULTS);
    for (int at = 0; at < arguments.length; at += 2) {
      if (at + 1 == arguments.length || given.put(arguments[at], arguments[at + 1]) == null) {
        System.err.println("unknown, or without a value: " + arguments[at] + "; there are " + DEFAULTS.keySet());
        System.exit(2);
      }
    }
    String watched = given.get("--watch").isEmpty() ? given.get("--service") : given.get("--watch");
    new Main(given.get("--registry"), watched).run(given);
  }

  private void run(Map<String, String> given) throws InterruptedException {
    Value language = Value.newBuilder().setStringValue("java").build();
    Instance.Builder instance = Instance.newBuilder().setService(given.get("--service")).setId(given.get("--id"));
    instance.setPort(Integer.parseInt(given.get("--port"))).setVersion("1.0.0");
    instance.getMetadataBuilder().setStructValue(Struct.newBuilder().putFields("language", language));
    // A line of its own for the lease: whatever else there is to read, beats do not wait behind it.
    Keeper keeper = new Keeper(new Line(given.get("--registry")), instance.build(), seconds(given.get("--ttl")), say);

    // Why this ends: a failure, or none when it is asked to.
    BlockingQueue<Throwable> ends = new LinkedBlockingQueue<>();
    Throwable asked = new Throwable("told to stop");
    BlockingQueue<Integer> codes = new LinkedBlockingQueue<>();
    // Told to stop, the process ends when its hooks have: this one waits for how.
    Runtime.getRuntime()
        .addShutdownHook(
            new Thread(
                () -> {
                  ends.add(asked);
                  try {
                    Runtime.getRuntime().halt(codes.take());
                  } catch (InterruptedException impossible) {
                    throw new AssertionError("nobody interrupts it", impossible);
                  }
                }));
    Thread keeping =
        start(
            ends,
            () -> {
              keeper.run();
              return null;
            });
    start(ends, this::follow);
    start(ends, this::ask);
    Throwable why = ends.take();
    if (why == asked) {
      Throwable drained = new Throwable("no traffic any more");
      start(
          ends,
          () -> {
            keeper.drain(seconds(given.get("--drain")));
            ends.add(drained);
            return null;
          });
      why = ends.take();
      if (why == drained) {
        keeper.end(keeping);
        // If another process has the key by now, there is nothing of ours to take away.
        why = ends.stream().filter(Superseded.class::isInstance).findFirst().orElse(asked);
      }
    }
    if (why == asked) {
      keeper.leave();
    }
    codes.add(code(why, asked));
    System.exit(0); // with what the hook takes
  }

  private int code(Throwable why, Throwable asked) {
    if (why == asked) {
      return 0;
    }
    if (why instanceof Superseded superseded) {
      say.line("superseded", Map.of("holder", superseded.holder));
      return SUPERSEDED;
    }
    why.printStackTrace();
    return 1;
  }

  private static Duration seconds(String text) {
    return Duration.ofMillis((long) (1_000 * Double.parseDouble(text)));
  }

  private static Thread start(BlockingQueue<Throwable> ends, Callable<Void> work) {
    Thread thread =
        new Thread(
            () -> {
              try {
                work.call();
              } catch (Throwable failure) {
                ends.add(failure);
              }
            });
    thread.setDaemon(true);
    thread.start();
    return thread;
  }

  /** Says what comes, changes and goes. */
  private Void follow() throws Exception {
    Selector selector = Selector.newBuilder().setService(watched).build();
    Watcher watcher = new Watcher(line, selector, say);
    watcher.run(
        revision -> {
          long number = revision.number();
          for (Event event : revision.events()) {
            String kind = event.getType().name().replace("EVENT_TYPE_", "").toLowerCase();
            say.line(kind, Map.of("cause", event.getCause().name(), "revision", number, "instance", event.getInstance()));
          }
          List<String> ids = watcher.instances().keySet().stream().map(Watcher.Key::id).sorted().toList();
          boolean isBookmark = revision.events().isEmpty() && !revision.isSnapshot();
          say.line(
              isBookmark ? "bookmark" : "set",
              Map.of("revision", number, "token", revision.token(), "snapshotEnd", revision.isSnapshot(), "ids", ids));
          if (!isBookmark) {
            changed.clear(); // an older one, which nobody took
            changed.add(number);
          }
        });
    return null;
  }

  /** After each change, looks up what there is, no older than what the watch has shown, and asks whether it is well. */
  private Void ask() throws InterruptedException {
    HealthCheckRequest check = HealthCheckRequest.newBuilder().setService(watched).build();
    while (true) {
      long revision = changed.take();
      long asked = System.currentTimeMillis();
      LookupRequest lookup = LookupRequest.newBuilder().setService(watched).setMinRevision(revision).build();
      try {
        LookupResponse found = line.registry(ASK_TIMEOUT).lookup(lookup);
        Map<String, Object> facts = new HashMap<>(Map.of("minRevision", revision, "revision", found.getRevision()));
        facts.putAll(Map.of("emptiness", found.getEmptiness().name(), "instances", found.getInstancesList()));
        facts.put("asked", new JsonPrimitive(asked));
        say.line("looked-up", facts);
        HealthGrpc.HealthBlockingV2Stub health = HealthGrpc.newBlockingV2Stub(line.channel()).withWaitForReady();
        HealthCheckResponse reply = health.withDeadlineAfter(ASK_TIMEOUT.toMillis(), TimeUnit.MILLISECONDS).check(check);
        say.line("health", Map.of("service", watched, "status", reply.getStatus().name()));
      } catch (StatusException error) {
        // What is known stays good; the next change asks again.
        say.line("failed", Map.of("code", error.getStatus().getCode().name()));
      }
    }
  }
}
