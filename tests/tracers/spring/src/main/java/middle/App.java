package middle;

import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.RestController;
import org.springframework.web.client.RestClient;

/** A service that calls DOWNSTREAM for each request; only Spring's tracing, if any, knows of headers. */
@RestController
@SpringBootApplication
class App {
    private final RestClient client;

    App(RestClient.Builder builder) {
        client = builder.build();
    }

    @GetMapping("/")
    String handle() {
        return client.get().uri(System.getenv("DOWNSTREAM")).retrieve().body(String.class);
    }

    public static void main(String[] arguments) {
        SpringApplication.run(App.class, arguments);
    }
}
