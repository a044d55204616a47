package example;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.TimeUnit;
import onair.v1.RegistryGrpc;

/**
 * A channel that can be given up.
 *
 * <p>A connection whose other end is gone without a word looks alive for a quarter of an hour, and every further call of
 * its channel goes there. So whoever waited in vain for an answer takes a new one.
 */
final class Line {
  /** Trying the same again cannot help: what is asked for is wrong, or forbidden, or unknown to this server. */
  private static final Set<Status.Code> FINAL =
      Set.of(
          Status.Code.INVALID_ARGUMENT,
          Status.Code.UNIMPLEMENTED,
          Status.Code.ALREADY_EXISTS,
          Status.Code.PERMISSION_DENIED,
          Status.Code.UNAUTHENTICATED);

  private final String target;
  private ManagedChannel channel;

  Line(String target) {
    this.target = target;
    this.channel = dial();
  }

  private ManagedChannel dial() {
    return ManagedChannelBuilder.forTarget(target).usePlaintext().build();
  }

  synchronized ManagedChannel channel() {
    return channel;
  }

  synchronized void renew() {
    channel.shutdownNow();
    channel = dial();
  }

  /** For streams: they fail at once where there is no connection. */
  RegistryGrpc.RegistryBlockingV2Stub registry() {
    return RegistryGrpc.newBlockingV2Stub(channel());
  }

  /** For calls: they wait for a connection, but not for longer than this. */
  RegistryGrpc.RegistryBlockingV2Stub registry(Duration timeout) {
    return registry().withWaitForReady().withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS);
  }

  /** Throws what cannot be helped by trying again. */
  void failed(StatusException error) throws StatusException, Superseded {
    ErrorInfo info = infoOf(error);
    if (info.getReason().equals("SUPERSEDED")) {
      throw new Superseded(info.getMetadataOrDefault("holder", ""));
    }
    if (isFinal(error)) {
      throw error;
    }
    if (error.getStatus().getCode() == Status.Code.DEADLINE_EXCEEDED) {
      renew();
    }
    // By default a channel may wait for two minutes before it dials again, longer than most leases live.
    channel().resetConnectBackoff();
  }

  /** Whether trying again cannot help. */
  static boolean isFinal(StatusException error) {
    return FINAL.contains(error.getStatus().getCode());
  }

  /** What the registry says of a failure to programs; empty where it says nothing. */
  static ErrorInfo infoOf(StatusException error) {
    return detailOf(error, ErrorInfo.class)
        .filter(info -> info.getDomain().equals("onair"))
        .orElse(ErrorInfo.getDefaultInstance());
  }

  /** A detail of a failure. */
  static <T extends Message> Optional<T> detailOf(StatusException error, Class<T> kind) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status != null) {
      for (Any packed : status.getDetailsList()) {
        try {
          if (packed.is(kind)) {
            return Optional.of(packed.unpack(kind));
          }
        } catch (InvalidProtocolBufferException broken) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }
}
