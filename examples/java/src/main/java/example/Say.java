package example;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.MessageOrBuilder;
import com.google.protobuf.util.JsonFormat;
import java.util.List;
import java.util.Map;

/** Says what happens, as lines of JSON: messages as JSON has them, 64-bit numbers as text, since JSON's end at 2^53. */
final class Say {
  private static final JsonFormat.Printer PRINTER = JsonFormat.printer().omittingInsignificantWhitespace();

  synchronized void line(String event, Map<String, ?> facts) {
    JsonObject line = new JsonObject();
    line.addProperty("event", event);
    line.addProperty("at", System.currentTimeMillis());
    facts.forEach((name, value) -> line.add(name, plain(value)));
    System.out.println(line);
  }

  private static JsonElement plain(Object value) {
    if (value instanceof JsonElement ready) {
      return ready;
    }
    if (value instanceof Boolean flag) {
      return new JsonPrimitive(flag);
    }
    if (value instanceof List<?> list) {
      JsonArray all = new JsonArray();
      list.forEach(one -> all.add(plain(one)));
      return all;
    }
    if (value instanceof MessageOrBuilder message) {
      try {
        return JsonParser.parseString(PRINTER.print(message));
      } catch (InvalidProtocolBufferException impossible) {
        throw new AssertionError("there is no `Any` in it", impossible);
      }
    }
    return new JsonPrimitive(value.toString());
  }
}
