package example;

/** Another process has our key. Stop; registering again would start a duel. */
final class Superseded extends Exception {
  Superseded(String why) {
    super(why);
  }
}
