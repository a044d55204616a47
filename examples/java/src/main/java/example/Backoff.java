package example;

import com.google.protobuf.util.Durations;
import com.google.rpc.RetryInfo;
import io.grpc.StatusException;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/** Pauses between attempts: doubling, spread, never shorter than what the server asks for. */
final class Backoff {
  private static final double FIRST = 100;

  private final double longest;
  private double next = FIRST;

  Backoff(Duration longest) {
    this.longest = longest.toMillis();
  }

  void reset() {
    next = FIRST;
  }

  /** After what the server said, or without an error. */
  void pause(StatusException error) throws InterruptedException {
    double wait = spread(next, 0.5);
    next = Math.min(2 * next, longest);
    if (error != null) {
      double asked = Line.detailOf(error, RetryInfo.class).map(info -> Durations.toMillis(info.getRetryDelay())).orElse(0L);
      wait = Math.max(wait, spread(1.5 * asked, 2.0 / 3));
    }
    Thread.sleep((long) wait);
  }

  /** A random part of a time, from the share {@code from} on to all of it. */
  static double spread(double time, double from) {
    return time * (from + (1 - from) * ThreadLocalRandom.current().nextDouble());
  }
}
